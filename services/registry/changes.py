"""What happens to the records of a town, in order, and tokens to go on from. Pure.

A town counts its changes; the number is the revision. Its log has each record once, at
its last change, and the last deregistrations: a watcher that was away reads what came
after its revision, and nothing twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from services.chassis.errors import Reason, ServiceError
from services.chassis.names import AgentName
from services.registry import refusals
from services.registry.agents import TOWN_AGENTS_MAX, Agent
from services.registry.pages import sealed, unsealed

# Whoever removes every agent of a full town still sends no watcher back to the list.
GONE_KEPT: Final = TOWN_AGENTS_MAX
# One reading of the log. A thousand watchers that list at once hold one each.
PAGE_STEPS_MAX: Final = 32
PAGE_BYTES_MAX: Final = 64 * 1024

_SCOPE: Final = "WatchAgents"
# As far as Lua counts without rounding.
_REVISION_MAX: Final = 2**53


@dataclass(frozen=True, slots=True)
class Position:
    """A place in a town's log: everything up to the revision was told.

    `log` is another one after the store was emptied. `since` is where the list began,
    as long as it is not complete: who was gone by then was never in it.
    """

    log: str
    revision: int
    since: int | None = None

    @property
    def gone_after(self) -> int:
        """Deregistrations up to here need not be told."""
        return max(self.revision, self.since or 0)


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Step:
    """A record that changed, or the name of one that went, or else `synced`; and where
    to go on after it."""

    position: Position
    changed: Agent | None = None
    deregistered: AgentName | None = None
    size_bytes: int = 0

    @property
    def name(self) -> AgentName | None:
        return self.changed.name if self.changed else self.deregistered


@dataclass(frozen=True, slots=True)
class Changes:
    """Some steps by revision; `end` continues behind them, and is the end of the log
    when they are complete."""

    steps: tuple[Step, ...]
    end: Position
    complete: bool


def resume_token(town: str, position: Position) -> str:
    """The token that continues a watch of the town from a position."""
    since = "" if position.since is None else position.since
    text = f"{town}/{position.log}/{position.revision}/{since}"
    return sealed(_SCOPE, text)


def resume_position(town: str, token: str) -> Position | None:
    """Where a watch goes on; None lists first. Raises FIELD_INVALID for what was never
    a token, RESUME_TOKEN_EXPIRED for one of another town."""
    if not token:
        return None
    try:
        of, log, revision, since = (unsealed(_SCOPE, token) or "").split("/")
        if not log:
            raise ValueError(token)
        position = Position(log, _number(revision), _number(since) if since else None)
    except ValueError:
        raise ServiceError(
            Reason.FIELD_INVALID,
            "cannot read this resume token: send one of a watch, or none",
            field="resume_token",
        ) from None
    if of != town:
        raise refusals.resume_token_expired(town)
    return position


def _number(text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or int(text) > _REVISION_MAX:
        raise ValueError(text)
    return int(text)
