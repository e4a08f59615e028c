"""Writes a segment front to back, in bounded memory.

Give it pages in order as blocks; it yields the bytes of the segment. Packing runs in
threads if asked to, the order stays.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from operator import lt
from typing import BinaryIO, Final

from blake3 import blake3

from services.segments.fingerprint import ZERO, Fingerprint
from services.segments.layout import (
    FOOTER_HEAD,
    FOOTER_TAG,
    TABLE_ENTRY,
    Encoding,
    Header,
    Kind,
    SegmentInfo,
    Tail,
)
from services.segments.pack import Block, Prefix, opaque_blocks, pack

# Level 1 halves the time of a first save and costs a quarter more bytes; for the few
# pages of a delta level 3 is as good as any.
BASE_LEVEL: Final = 1
DELTA_LEVEL: Final = 3

# Called for each chunk, in order: the pages of the chunk, the lowest page that the
# prefix may name, the most pages that it may have.
PrefixSource = Callable[[Sequence[int], int, int], Prefix]


class SegmentEncoder:
    """Iterate over it once for the bytes of the segment; then `info` is known.

    `fingerprint` is that of the database after the segment. A base must come to it,
    for a delta it is taken on trust: whoever applies the delta will see.
    """

    def __init__(
        self,
        header: Header,
        source: Iterable[Block],
        fingerprint: Fingerprint | None = None,
        *,
        level: int | None = None,
        prefix: PrefixSource | None = None,
        threads: int = 0,
    ) -> None:
        header.check()
        if header.kind is Kind.DELTA and fingerprint is None:
            raise ValueError("cannot write a delta without the fingerprint after it")
        self._header = header
        self._source = source
        self._fingerprint = fingerprint
        self._level = level or (BASE_LEVEL if header.kind is Kind.BASE else DELTA_LEVEL)
        self._prefix = prefix
        self._threads = threads
        self._digest = blake3()
        self._body_digest = blake3()  # of opaque bytes
        self._table = bytearray()
        self._last = 0
        self._pages = 0
        self._raw_bytes = 0
        self._offset = 0
        self._prefixed = False
        self._contribution = ZERO
        self._info: SegmentInfo | None = None

    @property
    def info(self) -> SegmentInfo:
        if self._info is None:
            raise ValueError("cannot describe a segment that is not written yet")
        return self._info

    def __iter__(self) -> Iterator[bytes]:
        yield self._out(self._header.pack())
        packed = self._packed_in_threads() if self._threads else self._packed()
        for first, record in packed:
            self._table += TABLE_ENTRY.pack(len(record), first)
            self._prefixed |= record[1] == Encoding.ZSTD_PREFIX
            yield self._out(record)
        yield self._footer()

    def _packed(self) -> Iterator[tuple[int, bytes]]:
        for first, block, prefix in self._counted():
            yield first, pack(self._header.kind, block, prefix, self._level)

    def _packed_in_threads(self) -> Iterator[tuple[int, bytes]]:
        """As many chunks in flight as keep every thread busy, no more."""
        flying: deque[tuple[int, Future[bytes]]] = deque()
        with ThreadPoolExecutor(self._threads, "segment-pack") as pool:
            for first, block, prefix in self._counted():
                job = pool.submit(pack, self._header.kind, block, prefix, self._level)
                flying.append((first, job))
                if len(flying) > 2 * self._threads:
                    first, job = flying.popleft()
                    yield first, job.result()
            for first, job in flying:
                yield first, job.result()

    def _counted(self) -> Iterator[tuple[int, Block, Prefix]]:
        for ordinal, block in enumerate(self._source, 1):
            prefix = Prefix()
            if block.numbers:
                prefix = self._add_pages(block)
            else:
                self._body_digest.update(block.data)
            self._raw_bytes += len(block.data)
            yield (block.numbers[0] if block.numbers else ordinal), block, prefix

    def _add_pages(self, block: Block) -> Prefix:
        lowest = self._last + 1
        rising = all(map(lt, (self._last, *block.numbers[:-1]), block.numbers))
        if not rising or block.numbers[-1] > self._header.page_count:
            raise ValueError(f"cannot write page {block.numbers[0]} out of order")
        if len(block.data) != len(block.numbers) * self._header.page_size:
            raise ValueError("cannot write pages of another size than the header's")
        self._last = block.numbers[-1]
        self._pages += len(block.numbers)
        self._contribution += Fingerprint.of(block.numbers, block.hashes)
        if self._prefix is None:
            return Prefix()
        return self._prefix(block.numbers, lowest, self._header.prefix_pages_max)

    def _footer(self) -> bytes:
        chunks = len(self._table) // TABLE_ENTRY.size
        tail = Tail(self._offset, self._raw_bytes, self._final_fingerprint())
        head = FOOTER_HEAD.pack(FOOTER_TAG, b"", chunks)
        plain = b"".join((head, self._table, tail.pack()[: -len(tail.digest)]))
        self._digest.update(plain)
        digest = self._digest.digest()
        self._digest.update(digest)
        self._offset += len(plain) + len(digest)
        self._info = SegmentInfo(
            header=self._header,
            chunks=chunks,
            prefixed=self._prefixed,
            raw_bytes=self._raw_bytes,
            size_bytes=self._offset,
            contribution=self._contribution,
            fingerprint=tail.fingerprint,
            blake3=self._digest.digest(),
        )
        return plain + digest

    def _final_fingerprint(self) -> Fingerprint:
        if self._pages != self._header.pages:
            raise ValueError(
                f"cannot end a segment of {self._header.pages} pages after"
                f" {self._pages}"
            )
        if self._header.kind is Kind.OPAQUE:
            return Fingerprint.from_bytes(self._body_digest.digest(length=16))
        found = self._contribution
        if self._header.kind is Kind.BASE:
            if self._fingerprint not in (None, found):
                raise ValueError("cannot end a base whose pages changed on the way")
            return found
        return found if self._fingerprint is None else self._fingerprint

    def _out(self, part: bytes) -> bytes:
        self._digest.update(part)
        self._offset += len(part)
        return part


def opaque_encoder(parts: Iterable[bytes], *, level: int = 1) -> SegmentEncoder:
    return SegmentEncoder(Header.opaque(), opaque_blocks(parts), level=level)


def write_segment(file: BinaryIO, encoder: SegmentEncoder) -> SegmentInfo:
    """Writes all of it; the caller flushes, syncs and names the file."""
    for part in encoder:
        file.write(part)
    return encoder.info
