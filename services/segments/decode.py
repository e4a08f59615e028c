"""Reads a segment front to back from pieces of any size, in bounded memory.

Chunks come out before the digest of the whole is known: whoever acts on them must be
able to undo it until `finish` has returned.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import lt
from typing import Final

from blake3 import blake3

from services.chassis.errors import Reason, ServiceError
from services.segments.fingerprint import HASH_BYTES, ZERO, Fingerprint
from services.segments.layout import (
    CHUNK_BYTES_MAX,
    CHUNK_HEAD,
    CHUNK_TAG,
    DIGEST_BYTES,
    FOOTER_HEAD,
    FOOTER_TAG,
    HEADER,
    TABLE_ENTRY,
    TAIL,
    ChunkHead,
    Encoding,
    Header,
    Kind,
    SegmentInfo,
    Tail,
    damaged,
    malformed,
)

_MIB: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Chunk:
    """One chunk as stored; `unpack` makes pages of it."""

    head: ChunkHead
    numbers: Sequence[int]  # of its pages; empty for opaque bytes
    hashes: bytes
    prefix: Sequence[int]
    index: bytes
    payload: bytes


class SegmentDecoder:
    """Feed it the bytes in order; it yields chunks and refuses whatever is not sound.

    `database_bytes_max` refuses, before anything is unpacked, a segment that would
    make a larger file: a few bytes can unpack to terabytes of zeros.
    """

    def __init__(self, database_bytes_max: int | None = None) -> None:
        self.header: Header | None = None
        self._limit = database_bytes_max
        self._buffer = bytearray()
        self._wanted = HEADER.size
        self._digest = blake3()
        self._table = bytearray()
        self._offset = 0
        self._raw_bytes = 0
        self._pages = 0
        self._grown = 0
        self._last = 0
        self._short = False  # an opaque chunk below full size was seen: it is the last
        self._prefixed = False
        self._contribution = ZERO
        self._info: SegmentInfo | None = None

    def feed(self, data: bytes | memoryview) -> Iterator[Chunk]:
        """The chunks that these bytes complete. Lazy: exhaust it, then feed again."""
        self._buffer += data
        while self._wanted <= len(self._buffer):
            if self._info is not None:
                if self._buffer:
                    raise malformed("bytes follow its end")
                return
            if self.header is None:
                self._begin()
            elif self._buffer[0] == CHUNK_TAG:
                chunk = self._chunk(self.header)
                if chunk is not None:
                    yield chunk
            elif self._buffer[0] == FOOTER_TAG:
                self._end(self.header)
            else:
                raise malformed("neither a chunk nor the footer follows")

    def finish(self) -> SegmentInfo:
        """What was read, its digest proven; an incomplete one is refused."""
        if self._info is None:
            raise malformed(
                f"it ends after {self._offset + len(self._buffer)} bytes, before its"
                " footer: send or fetch it again"
            )
        return self._info

    def _take(self, size: int) -> bytes:
        taken = bytes(memoryview(self._buffer)[:size])
        del self._buffer[:size]
        self._offset += size
        return taken

    def _begin(self) -> None:
        raw = self._take(HEADER.size)
        self._digest.update(raw)
        header = Header.unpack(raw)
        self._refuse_beyond_limit(header.page_size * header.page_count)
        self.header = header
        self._wanted = CHUNK_HEAD.size

    def _chunk(self, header: Header) -> Chunk | None:
        head = ChunkHead.unpack(bytes(self._buffer[: CHUNK_HEAD.size]))
        self._check_sizes(header, head)
        index_bytes = head.index_bytes(header.kind)
        record_bytes = CHUNK_HEAD.size + index_bytes + head.payload_bytes
        self._wanted = record_bytes
        if len(self._buffer) < record_bytes:
            return None
        record = self._take(record_bytes)
        self._wanted = CHUNK_HEAD.size
        self._digest.update(record)
        index = record[CHUNK_HEAD.size : CHUNK_HEAD.size + index_bytes]
        chunk = self._indexed(header, head, index, record[-head.payload_bytes :])
        first = chunk.numbers[0] if chunk.numbers else len(self._table) // 8 + 1
        self._table += TABLE_ENTRY.pack(record_bytes, first)
        self._raw_bytes += head.raw_bytes
        self._pages += head.pages
        self._short = head.raw_bytes < CHUNK_BYTES_MAX
        self._prefixed = self._prefixed or bool(chunk.prefix)
        if chunk.numbers:
            self._last = chunk.numbers[-1]
            self._contribution += Fingerprint.of(chunk.numbers, chunk.hashes)
        return chunk

    def _check_sizes(self, header: Header, head: ChunkHead) -> None:
        if header.kind is Kind.OPAQUE:
            if head.pages or head.prefix_pages:
                raise malformed("an opaque chunk has no pages")
            if self._raw_bytes and self._short:
                raise malformed("only the last opaque chunk may be short")
            self._refuse_beyond_limit(self._raw_bytes + head.raw_bytes)
            return
        left = header.pages - self._pages
        most = min(header.chunk_pages_max, left)
        if not 1 <= head.pages <= most:
            raise malformed(f"a chunk of {head.pages} pages where {most} may follow")
        if header.kind is Kind.BASE and head.pages != most:
            raise malformed("only the last chunk of a base may be short")
        if head.raw_bytes != head.pages * header.page_size:
            raise malformed("a chunk's data is not as long as its pages")
        if header.kind is Kind.BASE and head.encoding is Encoding.ZSTD_PREFIX:
            raise malformed("a base has no prefix")
        if head.prefix_pages > header.prefix_pages_max:
            raise malformed(f"a prefix of {head.prefix_pages} pages")

    def _indexed(
        self, header: Header, head: ChunkHead, index: bytes, payload: bytes
    ) -> Chunk:
        if header.kind is not Kind.DELTA:
            numbers = range(self._last + 1, self._last + 1 + head.pages)
            return Chunk(head, numbers, index, (), index, payload)
        numbers_bytes = 4 * head.pages
        hashes_end = numbers_bytes + HASH_BYTES * head.pages
        pages = struct.unpack(f"<{head.pages}I", index[:numbers_bytes])
        prefix = struct.unpack(f"<{head.prefix_pages}I", index[hashes_end:])
        before = (self._last, *pages[:-1])
        if not all(map(lt, before, pages)) or pages[-1] > header.page_count:
            raise malformed("page numbers do not rise or leave the database")
        # An earlier chunk may already have overwritten the older version of its pages.
        kept = min(header.parent_page_count, header.page_count)
        if any(not self._last < number <= kept for number in prefix):
            raise malformed("a prefix names a page that a reader has no more")
        grown = [number for number in pages if number > header.parent_page_count]
        first = header.parent_page_count + self._grown + 1
        if grown != list(range(first, first + len(grown))):
            raise malformed("a page that the database grew by is missing")
        self._grown += len(grown)
        hashes = index[numbers_bytes:hashes_end]
        return Chunk(head, pages, hashes, prefix, index, payload)

    def _end(self, header: Header) -> None:
        _, zeros, chunks = FOOTER_HEAD.unpack(self._buffer[: FOOTER_HEAD.size])
        if any(zeros) or chunks * TABLE_ENTRY.size != len(self._table):
            raise malformed("its footer counts other chunks than it has")
        size = FOOTER_HEAD.size + len(self._table) + TAIL.size
        self._wanted = size
        if len(self._buffer) < size:
            return
        footer_offset = self._offset
        raw = self._take(size)
        self._digest.update(raw[:-DIGEST_BYTES])
        tail = Tail.unpack(raw[-TAIL.size :])
        if self._digest.digest() != tail.digest:
            raise damaged("it fails the digest in its footer")
        if raw[FOOTER_HEAD.size : -TAIL.size] != self._table:
            raise malformed("its table names other chunks than it has")
        if tail.footer_offset != footer_offset or tail.raw_bytes != self._raw_bytes:
            raise malformed("its footer gives other sizes than it has")
        self._check_whole(header, tail)
        self._digest.update(tail.digest)
        self._wanted = 1
        self._info = SegmentInfo(
            header=header,
            chunks=chunks,
            prefixed=self._prefixed,
            raw_bytes=self._raw_bytes,
            size_bytes=self._offset,
            contribution=self._contribution,
            fingerprint=tail.fingerprint,
            blake3=self._digest.digest(),
        )

    def _check_whole(self, header: Header, tail: Tail) -> None:
        if self._pages != header.pages:
            raise malformed(f"{self._pages} pages where {header.pages} were announced")
        if self._grown != max(0, header.page_count - header.parent_page_count) and (
            header.kind is Kind.DELTA
        ):
            raise malformed("a page that the database grew by is missing")
        if header.kind is Kind.BASE and tail.fingerprint != self._contribution:
            raise damaged("its pages give another fingerprint than its footer")

    def _refuse_beyond_limit(self, size_bytes: int) -> None:
        if self._limit is not None and size_bytes > self._limit:
            raise ServiceError(
                Reason.SNAPSHOT_TOO_LARGE,
                f"cannot take a file of {size_bytes / _MIB:.0f} MiB:"
                f" the limit is {self._limit / _MIB:.0f} MiB",
                size_bytes=size_bytes,
                limit_bytes=self._limit,
            )
