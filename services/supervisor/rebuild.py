"""Segments as they come in → the database in its place, proven page by page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from services.chassis.errors import Reason, ServiceError
from services.segments.chain import ChainBuilder, Expected
from services.segments.fingerprint import Fingerprint
from services.segments.page_map import PageMap
from services.supervisor.place import place
from services.supervisor.places import Places
from services.supervisor.snapshots_client import Generation


def rebuild(
    parts: Iterator[bytes], generation: Generation, places: Places, database: Path
) -> PageMap:
    """Builds beside the place, proves, then moves in. Blocks: call it from a thread.

    `parts`: the segments one after the other, in pieces of any size.

    Raises DIGEST_MISMATCH, SEGMENT_MALFORMED, SNAPSHOT_CORRUPT or NOT_A_DATABASE when
    the generation is not sound, STORAGE_FULL, LEASE_HELD while a process has the old
    file open.
    """
    built = places.scratch / f"{generation.number}.rebuilt"
    built.unlink(missing_ok=True)
    expected = Expected(
        generation.page_size,
        generation.page_count,
        Fingerprint.from_bytes(generation.fingerprint),
    )
    cutter = _Cutter(parts)
    with ChainBuilder(built, expected) as chain:
        for segment in generation.segments:
            info = chain.add(cutter.next(segment.size_bytes))
            if info.blake3 != segment.blake3:
                raise _corrupt("a segment is not the one that the record names")
        if any(cutter.next(1)):
            raise _corrupt("more bytes came than the record names")
        page_map = chain.finish()
    try:
        place(built, database, root=places.home)
    finally:
        built.unlink(missing_ok=True)  # of no use where it could not be placed
    return page_map


class _Cutter:
    """Cuts one run of bytes at the ends of segments."""

    def __init__(self, parts: Iterator[bytes]) -> None:
        self._parts = parts
        self._rest = memoryview(b"")

    def next(self, size_bytes: int) -> Iterator[memoryview]:
        """The next so many bytes, fewer at the end, in pieces."""
        while size_bytes:
            if not self._rest:
                self._rest = memoryview(next(self._parts, b""))
                if not self._rest:
                    return
            part, self._rest = self._rest[:size_bytes], self._rest[size_bytes:]
            size_bytes -= len(part)
            yield part


def _corrupt(why: str) -> ServiceError:
    return ServiceError(Reason.SNAPSHOT_CORRUPT, f"cannot use the download: {why}")
