"""Tokens taken back before they expire: what may be asked for, what is kept. Pure.

The script in `lua/revoke.lua` says the same where it must hold in one step with a
write; the conformance suite holds both to one meaning.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from services.chassis.access import RENEWAL_GRACE_S
from services.chassis.errors import Reason, ServiceError
from services.chassis.keys import LIFE_MAX_S, UNNOTED_TTL_S
from services.chassis.names import RunName
from services.chassis.revocations import Revoked as Revoked

# Of one town, ids and runs each. Its list is sent whole whenever it changes: 800 KB
# then.
ENTRIES_MAX: Final = 10_000
IDS_MAX: Final = 500
# Clocks differ, and verifiers bear with that.
_SLACK: Final = timedelta(minutes=1)
_LONGEST: Final = timedelta(seconds=LIFE_MAX_S)
_TOKEN_ID: Final = re.compile(r"[!-~]{1,128}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Revocation:
    """What one call takes back, and for how long that must be remembered. Runs are
    `agent/run`; with neither runs nor ids all tokens of the town are meant."""

    token_ids: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()
    kept_for: timedelta = _LONGEST + _SLACK + timedelta(seconds=RENEWAL_GRACE_S)

    @property
    def everything(self) -> bool:
        return not self.token_ids and not self.runs


@dataclass(frozen=True, slots=True)
class News:
    """The lists of the towns that changed up to a revision. `whole`: what is not named
    has none."""

    revision: int
    towns: Mapping[str, Revoked]
    whole: bool = False


def token_ids(given: Sequence[str]) -> tuple[str, ...]:
    """Each once; whatever a token's `jti` may be."""
    for each in given:
        if not _TOKEN_ID.fullmatch(each):
            raise ServiceError(
                Reason.FIELD_INVALID,
                "cannot revoke that id: give the `jti` of a token, 1-128 characters",
                field="token_ids",
            )
    return tuple(dict.fromkeys(given))


def run_key(name: RunName) -> str:
    """How lists name a run within its town."""
    return f"{name.agent}/{name.run}"


def kept_for(expire_time: datetime | None, now: datetime) -> timedelta:
    """How long to remember the tokens of a run, of which the last expires then;
    unknown: as long as any token can live."""
    if expire_time is None:
        return _LONGEST + _SLACK
    left = max(expire_time - now, timedelta(0))
    return min(left, _LONGEST) + _SLACK


def kept_for_renewed(expire_time: datetime | None, now: datetime) -> timedelta:
    """The same for tokens that may have been renewed by now, or may be yet."""
    renewed = now + timedelta(seconds=UNNOTED_TTL_S)
    last = None if expire_time is None else max(expire_time, renewed)
    return kept_for(last, now) + timedelta(seconds=RENEWAL_GRACE_S)
