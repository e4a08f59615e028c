"""The fixed parts of a segment, format version 1: sizes, limits, packing, checking.

`docs/segment-format.md` is the specification. Nothing here reads or writes a file.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Self

from blake3 import blake3

from services.chassis.errors import Reason, ServiceError
from services.segments.fingerprint import (
    FINGERPRINT_BYTES,
    HASH_BYTES,
    ZERO,
    Fingerprint,
)

# The first byte is no text and CR LF is the first thing that a careless transfer
# changes, as in PNG.
MAGIC: Final = b"\x89TKSEG\r\n"
VERSION: Final = 1

# What one chunk unpacks to, at most; with a prefix as large, the 2 MiB window that
# zstd has at level 3 covers both.
CHUNK_BYTES_MAX: Final = 1 << 20
PREFIX_BYTES_MAX: Final = 1 << 20
BASE_CHUNK_PAGES_MAX: Final = 64
DELTA_CHUNK_PAGES_MAX: Final = 256
PREFIX_PAGES_MAX: Final = 256
# SQLite's own limits.
PAGE_BYTES_MIN: Final = 512
PAGE_BYTES_MAX: Final = 65_536
PAGE_COUNT_MAX: Final = 0xFFFF_FFFE

CHUNK_TAG: Final = 0x01
FOOTER_TAG: Final = 0xFF

HEADER: Final = struct.Struct("<8sHBBIIIII16s16s")
CHUNK_HEAD: Final = struct.Struct("<BBHHHII16s")
FOOTER_HEAD: Final = struct.Struct("<B3sI")
TABLE_ENTRY: Final = struct.Struct("<II")
TAIL: Final = struct.Struct("<QQ16s32s")
DIGEST_BYTES: Final = 32
CHUNK_DIGEST_BYTES: Final = 16
_HEADER_PLAIN_BYTES: Final = HEADER.size - CHUNK_DIGEST_BYTES
CHUNK_PLAIN_BYTES: Final = CHUNK_HEAD.size - CHUNK_DIGEST_BYTES


class Kind(IntEnum):
    """What a segment holds."""

    BASE = 1  # every page of a database
    DELTA = 2  # the pages that differ from the state before
    OPAQUE = 3  # bytes that are no database


class Encoding(IntEnum):
    """How the data of a chunk is stored."""

    STORED = 0
    ZSTD = 1
    ZSTD_PREFIX = 2  # zstd with older pages of the chain as raw dictionary


def malformed(text: str, **metadata: object) -> ServiceError:
    return ServiceError(
        Reason.SEGMENT_MALFORMED, f"cannot read the segment: {text}", **metadata
    )


def damaged(text: str, **metadata: object) -> ServiceError:
    return ServiceError(
        Reason.DIGEST_MISMATCH,
        f"cannot trust the segment: {text}; send or fetch it again",
        **metadata,
    )


def is_page_size(value: int) -> bool:
    return PAGE_BYTES_MIN <= value <= PAGE_BYTES_MAX and value & (value - 1) == 0


@dataclass(frozen=True, slots=True)
class Header:
    """The first 64 bytes: what the segment holds and which state it stands on."""

    kind: Kind
    page_size: int = 0
    page_count: int = 0  # of the database after this segment
    pages: int = 0  # in this segment
    parent_page_count: int = 0
    parent_fingerprint: Fingerprint = ZERO

    @classmethod
    def base(cls, page_size: int, page_count: int) -> Self:
        return cls(Kind.BASE, page_size, page_count, page_count)

    @classmethod
    def opaque(cls) -> Self:
        return cls(Kind.OPAQUE)

    @property
    def chunk_pages_max(self) -> int:
        most = BASE_CHUNK_PAGES_MAX if self.kind is Kind.BASE else DELTA_CHUNK_PAGES_MAX
        return min(most, CHUNK_BYTES_MAX // self.page_size)

    @property
    def prefix_pages_max(self) -> int:
        return min(PREFIX_PAGES_MAX, PREFIX_BYTES_MAX // self.page_size)

    def check(self) -> None:
        """Refuses what no writer of this format makes."""
        if self.kind is Kind.OPAQUE:
            if self != Header.opaque():
                raise malformed("an opaque one has no pages")
            return
        if not is_page_size(self.page_size):
            raise malformed(f"{self.page_size} is no page size", size=self.page_size)
        if not 1 <= self.page_count <= PAGE_COUNT_MAX:
            raise malformed(f"no database has {self.page_count} pages")
        if self.kind is Kind.BASE:
            if self != Header.base(self.page_size, self.page_count):
                raise malformed("a base holds every page and stands on nothing")
            return
        if not 1 <= self.parent_page_count <= PAGE_COUNT_MAX:
            raise malformed("a delta stands on a database of one page or more")
        grown = max(0, self.page_count - self.parent_page_count)
        if not grown <= self.pages <= self.page_count:
            raise malformed(f"a delta to {self.page_count} pages with {self.pages}")

    def pack(self) -> bytes:
        plain = HEADER.pack(
            MAGIC,
            VERSION,
            self.kind,
            0,
            self.page_size,
            self.page_count,
            self.pages,
            self.parent_page_count,
            0,
            bytes(self.parent_fingerprint),
            b"",
        )[:_HEADER_PLAIN_BYTES]
        return plain + blake3(plain).digest(length=CHUNK_DIGEST_BYTES)

    @classmethod
    def unpack(cls, raw: bytes) -> Self:
        fields = HEADER.unpack(raw)
        magic, version, kind, zero, size, count, pages, parent_count, zeros = fields[:9]
        if magic != MAGIC:
            raise malformed("it does not begin as one; is it a whole database file?")
        if version != VERSION:
            raise malformed(
                f"its format is version {version} and this program reads version"
                f" {VERSION}: upgrade Townkeeper",
                version=version,
            )
        plain = raw[:_HEADER_PLAIN_BYTES]
        if blake3(plain).digest(length=CHUNK_DIGEST_BYTES) != fields[10]:
            raise damaged("its header fails its digest")
        if zero or zeros or kind not in Kind.__members__.values():
            raise malformed(f"its header names kind {kind} or uses reserved bytes")
        parent = Fingerprint.from_bytes(fields[9])
        header = cls(Kind(kind), size, count, pages, parent_count, parent)
        header.check()
        return header


@dataclass(frozen=True, slots=True)
class ChunkHead:
    """The first 32 bytes of a chunk; `digest` covers the 16 before it, the index and
    the data before compression."""

    encoding: Encoding
    pages: int
    prefix_pages: int
    raw_bytes: int
    payload_bytes: int
    digest: bytes = bytes(CHUNK_DIGEST_BYTES)

    def pack(self) -> bytes:
        return CHUNK_HEAD.pack(
            CHUNK_TAG,
            self.encoding,
            self.pages,
            self.prefix_pages,
            0,
            self.raw_bytes,
            self.payload_bytes,
            self.digest,
        )

    @classmethod
    def unpack(cls, raw: bytes) -> Self:
        tag, encoding, pages, prefix_pages, zero, raw_bytes, payload, digest = (
            CHUNK_HEAD.unpack(raw)
        )
        if tag != CHUNK_TAG or zero or encoding not in Encoding.__members__.values():
            raise malformed("a chunk begins with reserved bytes")
        head = cls(Encoding(encoding), pages, prefix_pages, raw_bytes, payload, digest)
        head._check()
        return head

    def _check(self) -> None:
        if not 1 <= self.raw_bytes <= CHUNK_BYTES_MAX:
            raise malformed(f"a chunk of {self.raw_bytes} bytes")
        # Compression that does not pay is not used, so the data bounds the payload.
        stored = self.encoding is Encoding.STORED
        if stored and self.payload_bytes != self.raw_bytes:
            raise malformed("a stored chunk is as long as its data")
        if not stored and not 1 <= self.payload_bytes < self.raw_bytes:
            raise malformed("a compressed chunk is shorter than its data")
        if (self.encoding is Encoding.ZSTD_PREFIX) != (self.prefix_pages > 0):
            raise malformed("a chunk names a prefix if and only if it uses one")

    def index_bytes(self, kind: Kind) -> int:
        """Size of what stands between the head and the payload."""
        each = HASH_BYTES + (4 if kind is Kind.DELTA else 0)
        return self.pages * each + self.prefix_pages * 4


@dataclass(frozen=True, slots=True)
class Tail:
    """The last 64 bytes."""

    footer_offset: int
    raw_bytes: int
    fingerprint: Fingerprint
    digest: bytes = bytes(DIGEST_BYTES)

    def pack(self) -> bytes:
        return TAIL.pack(
            self.footer_offset, self.raw_bytes, bytes(self.fingerprint), self.digest
        )

    @classmethod
    def unpack(cls, raw: bytes) -> Self:
        offset, raw_bytes, fingerprint, digest = TAIL.unpack(raw)
        return cls(offset, raw_bytes, Fingerprint.from_bytes(fingerprint), digest)


@dataclass(frozen=True, slots=True)
class SegmentInfo:
    """What is known of a segment once it was written or read to its end."""

    header: Header
    chunks: int
    prefixed: bool  # needs the earlier deltas of its chain to be read
    raw_bytes: int
    size_bytes: int
    contribution: Fingerprint  # of the pages that it holds
    fingerprint: Fingerprint  # of the database after it; of the bytes if opaque
    blake3: bytes  # of the whole file: the segment's name

    @property
    def kind(self) -> Kind:
        return self.header.kind


assert HEADER.size == 64
assert CHUNK_HEAD.size == 32
assert TAIL.size == 64
assert len(bytes(ZERO)) == FINGERPRINT_BYTES
