"""Sends generations out: stored bytes are proven before the first of them leaves."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from blake3 import blake3

from services.chassis.errors import Reason, ServiceError
from services.segments.read import file_parts
from services.snapshots import records
from services.snapshots.disk_work import in_thread
from services.snapshots.generations import Format, Segment, Snapshot
from services.snapshots.materialize import corrupt, cut, merge, prove, unpacked
from services.snapshots.pins import Pins
from services.snapshots.shelf import Shelf
from services.snapshots.store import BlobMissing, BlobStore
from services.snapshots.upload import Chunk, Trailer

# Merging keeps a core and a disk busy; more at once only take turns.
_MERGES_AT_ONCE: Final = 2

Part: TypeAlias = Chunk | Trailer


@dataclass(frozen=True, slots=True)
class Range:
    """Which bytes of a file are wanted; `limit` 0 means all from `offset` on."""

    offset: int = 0
    limit: int = 0

    def end(self, snapshot: Snapshot) -> int:
        size_bytes = snapshot.content.size_bytes
        if self.offset > size_bytes:
            raise ServiceError(
                Reason.OFFSET_MISMATCH,
                f"cannot start at {self.offset}: {snapshot.name} has {size_bytes} "
                "bytes",
                offset=self.offset,
                size_bytes=size_bytes,
            )
        return min(self.offset + self.limit, size_bytes) if self.limit else size_bytes


class Downloads:
    """Each method is a context: once it is entered all is proven; then iterate."""

    def __init__(
        self, shelf: Shelf, blobs: BlobStore, pins: Pins, scratch: Callable[[], Path]
    ) -> None:
        self._shelf = shelf
        self._blobs = blobs
        self._pins = pins
        self._scratch = scratch
        self.merging = asyncio.Semaphore(_MERGES_AT_ONCE)

    @asynccontextmanager
    async def segments(self, snapshot: Snapshot) -> AsyncIterator[AsyncIterator[Part]]:
        """The segments as stored, one after the other."""
        if snapshot.content.format is Format.OPAQUE:
            raise ServiceError(
                Reason.SNAPSHOT_OPAQUE,
                f"cannot send segments of {snapshot.name}, which is opaque: ask for "
                "the file",
                name=snapshot.name,
            )
        async with self.proven(snapshot) as paths:
            yield _framed(_joined(paths), 0)

    @asynccontextmanager
    async def file(
        self, snapshot: Snapshot, wanted: Range
    ) -> AsyncIterator[AsyncIterator[Part]]:
        """The whole file, or a range of it."""
        end = wanted.end(snapshot)
        async with AsyncExitStack() as stack:
            paths = await stack.enter_async_context(self.proven(snapshot))
            if len(paths) == 1:
                parts = unpacked(snapshot, snapshot.content.segments[0], paths[0])
            else:
                merged = await stack.enter_async_context(self._merged(snapshot, paths))
                parts = _joined([merged])
            stack.callback(parts.close)
            yield _framed(cut(parts, wanted.offset, end), wanted.offset)

    @asynccontextmanager
    async def proven(self, snapshot: Snapshot) -> AsyncIterator[list[Path]]:
        """The segments as files, each proven by its digest."""
        segments = snapshot.content.segments
        digests = [segment.blake3 for segment in segments]
        async with AsyncExitStack() as stack:
            town = snapshot.agent.town
            await stack.enter_async_context(self._pins.holding(town, digests))
            paths = []
            for segment in segments:
                opened = self._opened(snapshot, segment)
                path = await stack.enter_async_context(opened)
                await in_thread(prove, snapshot, segment, path)
                paths.append(path)
            yield paths

    @asynccontextmanager
    async def _opened(
        self, snapshot: Snapshot, segment: Segment
    ) -> AsyncIterator[Path]:
        key = records.segment_key(snapshot.agent.town, segment.blake3)
        async with AsyncExitStack() as stack:
            try:
                path = await stack.enter_async_context(self._blobs.local(key))
            except BlobMissing as error:
                # Unless the generation was deleted or compacted this very moment.
                now = await self._shelf.snapshot(snapshot.agent, snapshot.generation)
                if segment not in now.content.segments:
                    raise ServiceError(
                        Reason.STORE_UNAVAILABLE,
                        f"cannot read {snapshot.name}: its chain was compacted at that "
                        "moment; try again",
                        compacted=snapshot.generation,
                    ) from error
                raise corrupt(snapshot, segment, "it is gone") from error
            yield path

    @asynccontextmanager
    async def _merged(
        self, snapshot: Snapshot, paths: list[Path]
    ) -> AsyncIterator[Path]:
        target = self._scratch()
        try:
            async with self.merging:
                await in_thread(merge, snapshot, paths, target)
            yield target
        finally:
            await in_thread(target.unlink, missing_ok=True)


def _joined(paths: list[Path]) -> Generator[bytes, None, None]:
    for path in paths:
        with path.open("rb", buffering=0) as file:
            yield from file_parts(file)


async def _framed(parts: Iterator[bytes], offset: int) -> AsyncIterator[Part]:
    digest = blake3()
    start = offset

    def step() -> Chunk | None:
        data = next(parts, None)
        if data is None:
            return None
        digest.update(data)
        return Chunk(offset, data, zlib.crc32(data))

    while (chunk := await in_thread(step)) is not None:
        offset += len(chunk.data)
        yield chunk
    yield Trailer(offset - start, digest.digest())
