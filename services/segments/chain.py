"""Builds a database file from a base and its deltas, and proves it.

The file is nobody's database until `finish` has returned: build it beside the place
where it belongs.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from services.chassis.errors import Reason, ServiceError
from services.segments.decode import Chunk, SegmentDecoder
from services.segments.disk import refusing_full_disk
from services.segments.fingerprint import Fingerprint
from services.segments.layout import (
    Header,
    Kind,
    SegmentInfo,
    damaged,
    malformed,
)
from services.segments.page_file import PageFile
from services.segments.page_map import PageMap
from services.segments.unpack import unpack

# zstd and BLAKE3 run without the GIL; writing and counting need the third core.
_THREADS: Final = 2
_CHUNKS_IN_FLIGHT: Final = 2 * _THREADS


@dataclass(frozen=True, slots=True)
class Expected:
    """What the generation's record says the database must come to."""

    page_size: int
    page_count: int
    fingerprint: Fingerprint


class ChainBuilder:
    """A context: `add` each segment in order, then `finish`; else the file is removed.

    Pages of deltas are proven one by one, those of the base by chunk, every step by
    the fingerprints that the segments carry, the end by `expected`. Blocks: call it
    from a thread.
    """

    def __init__(
        self,
        path: Path,
        expected: Expected | None = None,
        *,
        database_bytes_max: int | None = None,
    ) -> None:
        self._path = path
        self._expected = expected
        self._limit = database_bytes_max
        self._map = PageMap()
        self._file: PageFile | None = None
        self._descriptor = -1
        self._finished = False

    def __enter__(self) -> Self:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self._descriptor = os.open(self._path, flags, 0o600)
        self._pool = ThreadPoolExecutor(_THREADS, "segment-unpack")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pool.shutdown(cancel_futures=True)
        os.close(self._descriptor)
        if not self._finished:
            self._path.unlink(missing_ok=True)

    def add(self, parts: Iterable[bytes | memoryview]) -> SegmentInfo:
        """Applies one segment, given as its bytes in pieces of any size."""
        decoder = SegmentDecoder(self._limit)
        flying: deque[tuple[Chunk, Future[bytes]]] = deque()
        begun = False
        with refusing_full_disk("the restored database"):
            for part in parts:
                for chunk in decoder.feed(part):
                    if not begun:
                        self._begin(decoder.header)
                        begun = True
                    flying.append((chunk, self._unpacked(chunk)))
                    if len(flying) >= _CHUNKS_IN_FLIGHT:
                        self._place(decoder.header, *flying.popleft())
            while flying:
                self._place(decoder.header, *flying.popleft())
        info = decoder.finish()
        if not begun:
            self._begin(info.header)
        self._check(info)
        return info

    def finish(self) -> PageMap:
        """Proves the whole; the map is that of the file, which is not synced."""
        if self._file is None:
            raise malformed("a chain has no base")
        found = Expected(
            self._map.page_size, self._map.page_count, self._map.fingerprint
        )
        if self._expected is not None and found != self._expected:
            raise damaged(
                "the restored database is not the one that was saved",
                expected=self._expected.fingerprint,
                found=found.fingerprint,
            )
        self._finished = True
        return self._map

    def _begin(self, header: Header | None) -> None:
        assert header is not None
        if header.kind is Kind.OPAQUE:
            raise ServiceError(
                Reason.SNAPSHOT_OPAQUE,
                "cannot make a database of opaque bytes: export them instead",
            )
        if header.kind is Kind.BASE:
            if self._file is not None:
                raise malformed("a chain has one base, at its beginning")
            self._map.reset(header.page_size)
            self._file = PageFile(self._descriptor, header.page_size)
            return
        if (
            self._file is None
            or header.page_size != self._map.page_size
            or header.parent_page_count != self._map.page_count
            or header.parent_fingerprint != self._map.fingerprint
        ):
            raise ServiceError(
                Reason.PARENT_MISMATCH,
                "cannot apply a delta to another state than it was made from:"
                " give the base and its deltas in order",
                expected=header.parent_fingerprint,
                found=self._map.fingerprint,
            )
        if header.page_count < self._map.page_count:
            self._map.shrink(header.page_count)
            self._file.truncate(header.page_count)

    def _unpacked(self, chunk: Chunk) -> Future[bytes]:
        # The prefix is read now: later chunks of this segment may overwrite it.
        prefix = self._prefix(chunk)
        each_page = not isinstance(chunk.numbers, range)
        return self._pool.submit(unpack, chunk, prefix, each_page=each_page)

    def _prefix(self, chunk: Chunk) -> bytes:
        if not chunk.prefix or self._file is None:
            return b""
        if not all(map(self._file.marked, chunk.prefix)):
            raise malformed("a prefix names a page that no earlier delta carries")
        return self._file.read(chunk.prefix)

    def _place(
        self, header: Header | None, chunk: Chunk, unpacked: Future[bytes]
    ) -> None:
        assert header is not None
        assert self._file is not None
        data = unpacked.result()
        self._file.write(chunk.numbers, data)
        self._map.replace(chunk.numbers, chunk.hashes)
        if header.kind is Kind.DELTA:
            self._file.mark(chunk.numbers)

    def _check(self, info: SegmentInfo) -> None:
        if self._map.page_count != info.header.page_count:
            raise malformed("pages are missing")
        if self._map.fingerprint != info.fingerprint:
            raise damaged("its pages give another fingerprint than its footer")
