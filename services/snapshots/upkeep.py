"""The port for cleaning a town: one replica at a time, and nothing that is in use.

A segment that no record names goes at once where one process has the store, and else
by way of the trash: see `redis_upkeep.py`. Before a segment is named or read it is
spared, so that whoever cleans meanwhile leaves it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final, Protocol

CLEANING: Final = "turn"


class Upkeep(Protocol):
    """What those who clean and those who write agree on."""

    def turn(self, town: str, work: str = CLEANING) -> AbstractAsyncContextManager[str]:
        """This replica's turn at this work on the town while the context lasts, by a
        name that fences it; empty if another replica has it."""

    async def spare(self, town: str, digests: Collection[bytes]) -> None:
        """Keeps the segments, stored or about to be, for the next hours.
        Raises STORE_UNAVAILABLE if one is being removed."""

    async def due(
        self, town: str, named: Collection[bytes], unnamed: Collection[bytes]
    ) -> Sequence[bytes]:
        """Those unnamed segments whose time has come."""

    async def condemn(self, town: str, turn: str, digest: bytes) -> bool:
        """From now on it cannot be spared; False if it was, or the turn is over."""

    async def removed(self, town: str, digest: bytes) -> None:
        """It is gone, so its name is free."""


class OneProcess:
    """The Upkeep of a store that one process has: its own pins say what is in use."""

    @asynccontextmanager
    async def turn(self, town: str, work: str = CLEANING) -> AsyncIterator[str]:
        yield "mine"

    async def spare(self, town: str, digests: Collection[bytes]) -> None:
        return

    async def due(
        self, town: str, named: Collection[bytes], unnamed: Collection[bytes]
    ) -> Sequence[bytes]:
        return sorted(unnamed)

    async def condemn(self, town: str, turn: str, digest: bytes) -> bool:
        return True

    async def removed(self, town: str, digest: bytes) -> None:
        return
