"""Segments that are known to be damaged or gone, so that nothing more is built on them.

The scrub finds them; what it writes down every replica reads. Only hints: a mark that
is wrong, or late, costs one save of a whole session at most.
"""

from __future__ import annotations

from collections.abc import Collection, Set
from dataclasses import dataclass
from typing import Final, Protocol

import structlog

from services.chassis.telemetry import SEGMENTS_ROTTEN, Event

# A pass over a town goes through the segments by the first byte of their digests, then
# looks for those that are gone.
PARTS: Final = 256
STEPS: Final = PARTS + 1

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Place:
    """How far a pass has come: since when, and so many steps."""

    begun_us: int
    done: int = 0


def due(place: Place | None, now_us: int, period_us: int) -> Place | None:
    """The place whose next step is due, in a pass that begins now if the last one is
    over; None: nothing is. Steps are spread evenly over the period. Pure."""
    if place is None:
        return Place(now_us)
    if place.done >= STEPS:
        return Place(now_us) if now_us >= place.begun_us + period_us else None
    at_us = place.begun_us + period_us * place.done // STEPS
    return place if now_us >= at_us else None


class RotLog(Protocol):
    """The port: what outlives a process, and is the same for all replicas."""

    async def marks(self, town: str) -> Set[bytes]:
        """Digests of the town's segments that are marked."""

    async def mark(self, town: str, digest: bytes) -> None:
        """From now on it counts as damaged."""

    async def unmark(self, town: str, digests: Collection[bytes]) -> None:
        """They do not any more."""

    async def place(self, town: str) -> Place | None:
        """Where the pass over the town is; None before the first one."""

    async def put_place(self, town: str, place: Place) -> None:
        """It is there now."""


class Rot:
    """What this process knows of the log: asked of it now and then, so that no commit
    has to ask."""

    def __init__(self, log: RotLog) -> None:
        self._log = log
        self._known: dict[str, Set[bytes]] = {}

    def of(self, town: str) -> Set[bytes]:
        """Segments of the town that are damaged or gone."""
        return self._known.get(town, frozenset())

    async def look(self, town: str) -> None:
        """Reads the log again."""
        self._know(town, await self._log.marks(town))

    async def mark(self, town: str, digest: bytes) -> None:
        await self._log.mark(town, digest)
        self._know(town, self.of(town) | {digest})

    async def heal(self, town: str, digests: Collection[bytes]) -> None:
        """These are sound, or nobody's, now."""
        marked = self.of(town) & set(digests)
        if marked:
            await self._log.unmark(town, marked)
            self._know(town, self.of(town) - marked)
            for digest in sorted(marked):
                _log.info(Event.SEGMENT_HEALED, town=town, segment=digest.hex())

    def _know(self, town: str, marks: Set[bytes]) -> None:
        self._known[town] = marks
        SEGMENTS_ROTTEN.set(sum(map(len, self._known.values())))
