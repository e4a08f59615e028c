"""Segments that somebody is using right now, so that no collection takes them.

Counts within this process; what other replicas do is for the upkeep to know. A
collection first watches, then reads which segments records name, then removes others:
what was used meanwhile it spares.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TypeAlias

from services.snapshots.upkeep import OneProcess, Upkeep

# Its town and its digest: what names a segment.
SegmentId: TypeAlias = tuple[str, bytes]


class Pins:
    """Counts the users of each segment."""

    def __init__(self, upkeep: Upkeep | None = None) -> None:
        self._upkeep = upkeep or OneProcess()
        self._users: Counter[SegmentId] = Counter()
        self._watches: list[set[SegmentId]] = []
        self._removing: dict[SegmentId, asyncio.Event] = {}

    @asynccontextmanager
    async def holding(
        self, town: str, digests: Collection[bytes]
    ) -> AsyncIterator[None]:
        """Keeps the segments while the context lasts; waits if one is being removed."""
        wanted = {(town, digest) for digest in digests}
        self._users.update(wanted)
        for watch in self._watches:
            watch |= wanted
        try:
            for segment in wanted & self._removing.keys():
                await self._removing[segment].wait()
            await self._upkeep.spare(town, digests)
            yield
        finally:
            self._users.subtract(wanted)
            for segment in wanted:
                if not self._users[segment]:
                    del self._users[segment]

    @contextmanager
    def watching(self) -> Iterator[set[SegmentId]]:
        """The segments that were used since: a list of names read later lacks them."""
        seen = set(self._users)
        self._watches.append(seen)
        try:
            yield seen
        finally:
            self._watches.remove(seen)

    @contextmanager
    def removing(self, segment: SegmentId) -> Iterator[bool]:
        """Whether nobody holds it; whoever comes now waits until it is gone."""
        if segment in self._users or segment in self._removing:
            yield False
            return
        self._removing[segment] = asyncio.Event()
        try:
            yield True
        finally:
            self._removing.pop(segment).set()
