"""Which tokens were taken back before they expired, as a process last heard.

The registry keeps the lists; everybody else follows them. Who is cut off goes on with
the last ones and says so in its health, but a process that never heard any refuses
all tokens: it cannot know.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from services.chassis.access import ANY_TOWN, EVERYWHERE, Caller
from services.chassis.clock import Clock, SystemClock
from services.chassis.errors import Reason, ServiceError

# How old the lists may be before that is a complaint.
STALE_S: Final = 5.0


class Revocations(Protocol):
    """Which verified tokens are worthless all the same."""

    def revoked(self, caller: Caller) -> bool:
        """Whether the caller's token was revoked; must not block. Raises
        KEYS_UNAVAILABLE while nobody can know."""

    def complaint(self) -> str:
        """Why what was revoked lately may not be known here; empty: it is."""

    @property
    def unknown(self) -> bool:
        """Whether it was never known here, so that nobody can be let in."""


def check_revoked(known: Revocations, caller: Caller) -> None:
    """Raises TOKEN_REVOKED."""
    if known.revoked(caller):
        raise ServiceError(
            Reason.TOKEN_REVOKED, "cannot use a revoked token: get a new one"
        )


@dataclass(frozen=True, slots=True)
class Revoked:
    """What one town has revoked, or all of them as `*`: tokens by id, agents' tokens
    by `agent/run`, and all below a generation but those of operators."""

    token_ids: frozenset[str] = frozenset()
    runs: frozenset[str] = frozenset()
    generation: int = 0


NOTHING: Final = Revoked()


class RevocationList:
    """The lists of all towns, kept up by whoever follows them."""

    def __init__(self, *, followed: bool = False, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._followed = followed
        self._heard_at: float | None = None
        self._first = asyncio.Event()
        self._towns: dict[str, Revoked] = {}
        # Ids of all towns, for tokens that are good for all; made when asked for.
        self._token_ids: frozenset[str] | None = None

    def update(self, town: str, revoked: Revoked) -> None:
        """Replaces what is known of a town."""
        self._towns[town] = revoked
        if revoked == NOTHING:
            del self._towns[town]
        self._token_ids = None

    def replace(self, towns: Mapping[str, Revoked]) -> None:
        """Replaces what is known of all towns."""
        self._towns = dict(towns)
        self._token_ids = None

    def heard(self) -> None:
        """Says that what is known is all that there is, as of now."""
        self._heard_at = self._clock.monotonic()
        self._first.set()

    @property
    def unknown(self) -> bool:
        """Whether nobody has said yet what is revoked."""
        return self._followed and self._heard_at is None

    async def wait_known(self) -> None:
        """Until it was said for the first time."""
        await self._first.wait()

    def complaint(self) -> str:
        if not self._followed:
            return ""
        if self._heard_at is None:
            return "cannot tell which tokens are revoked, the registry has not said yet"
        age_s = self._clock.monotonic() - self._heard_at
        if age_s <= STALE_S:
            return ""
        return (
            f"cannot tell which tokens were revoked in the last {age_s:.0f} s, the "
            "registry does not answer: earlier revocations hold"
        )

    def revoked(self, caller: Caller) -> bool:
        if self.unknown:
            raise ServiceError(Reason.KEYS_UNAVAILABLE, f"{self.complaint()}: wait")
        if ANY_TOWN in caller.towns:
            return not self._everywhere().isdisjoint(_ids(caller))
        return any(
            self._revoked_by(self._towns[town], caller)
            for town in (*caller.towns, ANY_TOWN)
            if town in self._towns
        )

    def _revoked_by(self, town: Revoked, caller: Caller) -> bool:
        if not town.token_ids.isdisjoint(_ids(caller)):
            return True
        if caller.run and f"{caller.agent}/{caller.run}" in town.runs:
            return True
        return caller.kind not in EVERYWHERE and caller.generation < town.generation

    def _everywhere(self) -> frozenset[str]:
        if self._token_ids is None:
            lists = (town.token_ids for town in self._towns.values())
            self._token_ids = frozenset().union(*lists)
        return self._token_ids


def _ids(caller: Caller) -> tuple[str, str]:
    """With a token that was renewed goes the one that it all began with: who revokes
    that has revoked what somebody made of it."""
    return caller.token_id, caller.family
