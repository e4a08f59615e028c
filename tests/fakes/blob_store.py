"""A BlobStore in memory, with failures and delays on request."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from services.snapshots.store import BlobMissing
from tests.fakes.pause import Pause


class MemoryBlobs:
    """Keeps bytes in a dict; `folder` holds a copy while somebody reads one locally."""

    def __init__(self, folder: Path) -> None:
        self.blobs: dict[str, bytes] = {}
        # Called with the name of the method and the key before anything happens; may
        # raise what a store raises.
        self.before: Callable[[str, str], None] = lambda method, key: None
        self._folder = folder
        self._count = 0
        self.pause = Pause()

    async def create(self, key: str, data: bytes) -> bool:
        await self._step("create", key)
        return self.blobs.setdefault(key, data) is data

    async def swap(self, key: str, old: bytes, new: bytes) -> bool:
        await self._step("swap", key)
        if self.blobs.get(key) != old:
            return False
        self.blobs[key] = new
        return True

    async def publish(self, key: str, path: Path) -> None:
        await self._step("publish", key)
        self.blobs[key] = path.read_bytes()

    async def read(self, key: str) -> bytes:
        await self._step("read", key)
        if key not in self.blobs:
            raise BlobMissing(key)
        return self.blobs[key]

    @asynccontextmanager
    async def local(self, key: str) -> AsyncIterator[Path]:
        await self._step("local", key)
        if key not in self.blobs:
            raise BlobMissing(key)
        self._count += 1
        path = self._folder / f"local-{self._count}"
        path.write_bytes(self.blobs[key])
        try:
            yield path
        finally:
            path.unlink()

    async def stored(self, key: str) -> AsyncIterator[bytes]:
        yield await self.read(key)

    async def delete(self, key: str) -> None:
        await self._step("delete", key)
        self.blobs.pop(key, None)

    async def list(self, folder: str) -> list[str]:
        await self._step("list", folder)
        prefix = f"{folder}/"
        below = (key[len(prefix) :] for key in self.blobs if key.startswith(prefix))
        return sorted({name.partition("/")[0] for name in below})

    async def check(self) -> None:
        await self._step("check", "")

    async def _step(self, method: str, key: str) -> None:
        await self.pause.here(method)
        self.before(method, key)
