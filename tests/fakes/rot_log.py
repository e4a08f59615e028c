"""A RotLog in memory."""

from __future__ import annotations

from collections.abc import Collection, Set

from services.snapshots.rot import Place


class MemoryRotLog:
    def __init__(self) -> None:
        self._marks: dict[str, set[bytes]] = {}
        self._places: dict[str, Place] = {}

    async def marks(self, town: str) -> Set[bytes]:
        return frozenset(self._marks.get(town, ()))

    async def mark(self, town: str, digest: bytes) -> None:
        self._marks.setdefault(town, set()).add(digest)

    async def unmark(self, town: str, digests: Collection[bytes]) -> None:
        self._marks.setdefault(town, set()).difference_update(digests)

    async def place(self, town: str) -> Place | None:
        return self._places.get(town)

    async def put_place(self, town: str, place: Place) -> None:
        self._places[town] = place
