"""Copies of blobs on the local disk, for stores that are elsewhere.

Bounded: the copy that was not used for the longest time goes first, but never one that
somebody reads. Nothing here is durable, and nothing needs to be.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import TypeAlias

from services.snapshots.disk_work import disk_errors, in_thread

# Puts the blob into a file that is not there yet; says whether it may be kept.
Fetch: TypeAlias = Callable[[Path], Awaitable[bool]]


@dataclass(slots=True)
class _Copy:
    path: Path
    users: int = 0
    size_bytes: int = 0
    whole: bool = False
    fetching: asyncio.Lock = field(default_factory=asyncio.Lock)


class BlobCache:
    """One process's copies, by the names of their blobs."""

    def __init__(self, folder: Path, size_bytes_max: int) -> None:
        self.size_bytes = 0
        self._folder = folder
        self._size_bytes_max = size_bytes_max
        self._numbers = count()
        # In the order of their last use.
        self._copies: dict[str, _Copy] = {}

    @asynccontextmanager
    async def holding(self, key: str, fetch: Fetch) -> AsyncIterator[Path]:
        """The copy, fetched if need be, by one of all who ask at the same time."""
        copy = self._copies.pop(key, None) or _Copy(self._new_path())
        self._copies[key] = copy
        copy.users += 1
        try:
            async with copy.fetching:
                if not copy.whole:
                    await self._fill(key, copy, fetch)
            yield copy.path
        finally:
            copy.users -= 1
            await self._tidy(key, copy)

    async def adopt(self, key: str, path: Path) -> None:
        """Keeps a local file, on the same disk, that has just become a blob."""
        copy = _Copy(self._new_path())
        with disk_errors("the cache"):
            await in_thread(os.link, path, copy.path)
            self._count(copy)
        previous = self._copies.pop(key, None)
        self._copies[key] = copy
        if previous is not None:
            await self._tidy(key, previous)
        await self._tidy(key, copy)

    async def drop(self, key: str) -> None:
        """Forgets the copy; whoever reads it may go on."""
        if copy := self._copies.pop(key, None):
            await self._tidy(key, copy)

    async def _fill(self, key: str, copy: _Copy, fetch: Fetch) -> None:
        try:
            keep = await fetch(copy.path)
            with disk_errors("the cache"):
                self._count(copy)
        except BaseException:
            self._forget(key, copy)
            copy.path.unlink(missing_ok=True)
            raise
        if not keep:
            self._forget(key, copy)

    def _count(self, copy: _Copy) -> None:
        copy.size_bytes = copy.path.stat().st_size
        copy.whole = True
        self.size_bytes += copy.size_bytes

    def _forget(self, key: str, copy: _Copy) -> None:
        if self._copies.get(key) is copy:
            del self._copies[key]

    async def _tidy(self, key: str, copy: _Copy) -> None:
        """Removes this copy if it was forgotten, then the oldest ones beyond the
        bound."""
        if self._copies.get(key) is not copy and not copy.users:
            await self._remove(copy)
        if self.size_bytes <= self._size_bytes_max:
            return
        for name, oldest in list(self._copies.items()):
            if self.size_bytes <= self._size_bytes_max:
                return
            if oldest.whole and not oldest.users:
                self._forget(name, oldest)
                await self._remove(oldest)

    async def _remove(self, copy: _Copy) -> None:
        if copy.whole:
            copy.whole = False
            self.size_bytes -= copy.size_bytes
            await in_thread(copy.path.unlink, missing_ok=True)

    def _new_path(self) -> Path:
        return self._folder / f"blob-{next(self._numbers)}"
