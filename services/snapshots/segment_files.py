"""Glue to the segment format: what an uploaded segment says, what a file becomes.

Everything here blocks and belongs in a thread.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import starmap
from pathlib import Path
from typing import BinaryIO, Final

import apsw

from services.chassis.errors import Reason, ServiceError
from services.segments.disk import refusing_full_disk
from services.segments.encode import SegmentEncoder, opaque_encoder, write_segment
from services.segments.fingerprint import FINGERPRINT_BYTES, hash_pages
from services.segments.layout import Header, SegmentInfo, is_page_size
from services.segments.layout import Kind as FormatKind
from services.segments.pack import Block
from services.segments.read import file_parts
from services.snapshots.generations import Addition, Kind, Segment

_KINDS: Final = {
    FormatKind.BASE: Kind.BASE,
    FormatKind.DELTA: Kind.DELTA,
    FormatKind.OPAQUE: Kind.OPAQUE,
}
_SQLITE_MAGIC: Final = b"SQLite format 3\0"
_SQLITE_HEADER_BYTES: Final = 100
# One packs while the other hashes the next pages; more only take turns.
_THREADS: Final = 2


def addition(info: SegmentInfo) -> Addition:
    """A segment that was read to its end, as the rules see it."""
    header = info.header
    opaque = info.kind is FormatKind.OPAQUE
    return Addition(
        segment=Segment(
            blake3=info.blake3,
            kind=_KINDS[info.kind],
            size_bytes=info.size_bytes,
            page_count=header.pages,
        ),
        size_bytes=info.raw_bytes if opaque else header.page_size * header.page_count,
        page_size_bytes=header.page_size,
        page_count=header.page_count,
        fingerprint=b"" if opaque else bytes(info.fingerprint),
    )


def check_fingerprint(found: Addition, claimed: bytes) -> None:
    """The trailer must say of the database what the segment says."""
    wanted_bytes = FINGERPRINT_BYTES if found.fingerprint else 0
    if len(claimed) != wanted_bytes:
        raise ServiceError(
            Reason.FIELD_INVALID,
            f"cannot use a fingerprint of {len(claimed)} bytes: send the "
            f"{wanted_bytes} of the segment's footer",
            field="trailer.fingerprint",
        )
    if claimed != found.fingerprint:
        raise ServiceError(
            Reason.DIGEST_MISMATCH,
            "cannot commit a segment whose fingerprint is not the trailer's: save "
            "again",
            fingerprint=found.fingerprint.hex(),
        )


def encode_file(source: Path, target: Path, page_size: int) -> Addition:
    """Makes a base of a sound SQLite file, and opaque bytes of one without pages."""
    with source.open("rb") as file, refusing_full_disk("the segment"):
        if page_size:
            header = Header.base(page_size, source.stat().st_size // page_size)
            encoder = SegmentEncoder(header, _blocks(file, header), threads=_THREADS)
        else:
            encoder = opaque_encoder(file_parts(file))
        with target.open("xb") as segment:
            return addition(write_segment(segment, encoder))


def hashed_pages(
    file: BinaryIO, page_size: int, most: int
) -> Iterator[tuple[range, bytes, bytes]]:
    """The pages of a file in order, so many at a time: numbers, hashes, data."""
    first = 1
    while data := file.read(most * page_size):
        numbers = range(first, first + len(data) // page_size)
        yield numbers, hash_pages(data, page_size), data
        first = numbers.stop


def _blocks(file: BinaryIO, header: Header) -> Iterator[Block]:
    return starmap(Block, hashed_pages(file, header.page_size, header.chunk_pages_max))


def sound_page_size(path: Path) -> int:
    """The page size of a whole, sound SQLite database; 0 for anything else."""
    size_bytes = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(_SQLITE_HEADER_BYTES)
    if len(head) < _SQLITE_HEADER_BYTES or not head.startswith(_SQLITE_MAGIC):
        return 0
    page_size = int.from_bytes(head[16:18], "big")
    page_size = 65_536 if page_size == 1 else page_size
    if not is_page_size(page_size) or size_bytes % page_size:
        return 0
    # The count in the header counts only if the version beside it is the current one.
    counted = int.from_bytes(head[28:32], "big")
    if head[24:28] == head[92:96] and counted not in (0, size_bytes // page_size):
        return 0
    return page_size if _quick_check(path) else 0


def _quick_check(path: Path) -> bool:
    # Immutable: no -wal, -shm or journal is looked for, made, or believed.
    flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
    flags |= apsw.SQLITE_OPEN_NOFOLLOW
    try:
        connection = apsw.Connection(f"{path.as_uri()}?immutable=1", flags=flags)
        try:
            connection.execute("PRAGMA trusted_schema=OFF")
            connection.execute("PRAGMA cell_size_check=ON")
            found: object = connection.execute("PRAGMA quick_check(1)").get
            return found == "ok"
        finally:
            connection.close()
    except apsw.Error:
        return False
