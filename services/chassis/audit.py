"""One line for each call that may change something: who, what, how it ended.

Never a payload. Calls that were refused are told of as well, also those of strangers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import structlog

from services.chassis.access import Caller, Kind
from services.chassis.telemetry import Event

# A list of hundreds of agents says nothing more than its first ones.
RESOURCES_MAX: Final = 20
# The longest name that is one has fewer; a caller may send any text in its place.
RESOURCE_LENGTH_MAX: Final = 420
# What only looks. A method that begins otherwise counts as a change.
_READING: Final = (
    *("Check", "Download", "Get", "List", "Resolve", "Tail", "Verify", "Watch"),
)
# Comes every two seconds from each instance, and says that it is still there.
_PULSE: Final = "Heartbeat"

_log = structlog.get_logger(__name__)


def changes(method: str) -> bool:
    """Whether a gRPC method, by its full name, may change something."""
    name = method.rpartition("/")[2]
    return name != _PULSE and not name.startswith(_READING)


def record(
    caller: Caller | None, what: str, resources: Sequence[str], outcome: str
) -> None:
    """Writes the line. The request id and the service's name come with every line."""
    _log.info(
        Event.CHANGE_AUDITED,
        kind=caller.kind.value if caller else "",
        subject=subject(caller) if caller else "",
        token_id=caller.token_id if caller else "",
        what=what,
        resources=[name[:RESOURCE_LENGTH_MAX] for name in resources[:RESOURCES_MAX]],
        outcome=outcome,
    )


def subject(caller: Caller) -> str:
    """Whom the token speaks for, in a word."""
    if caller.kind is Kind.AGENT:
        return f"towns/{caller.town}/agents/{caller.agent}"
    if caller.user:
        return caller.user
    return ",".join(f"towns/{town}" for town in sorted(caller.towns))
