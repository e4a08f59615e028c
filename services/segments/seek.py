"""Reads chosen chunks of a segment on disk, found by the table in its footer. Blocks.

The table is believed and the digest of the whole is not checked, so the cost does not
follow the size of the segment. Unpacking a chunk proves it.
"""

from __future__ import annotations

import os
import struct
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate, groupby
from pathlib import Path
from typing import Self

from services.segments.decode import Chunk
from services.segments.disk import read_all
from services.segments.fingerprint import HASH_BYTES
from services.segments.layout import (
    CHUNK_HEAD,
    FOOTER_HEAD,
    HEADER,
    TABLE_ENTRY,
    TAIL,
    ChunkHead,
    Header,
    Kind,
    Tail,
    malformed,
)


class SegmentFile:
    """A base or a delta, open for reading."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.header = Header.unpack(self._read(HEADER.size, 0))
        end = os.fstat(descriptor).st_size - TAIL.size
        start = Tail.unpack(self._read(TAIL.size, end)).footer_offset
        start += FOOTER_HEAD.size
        table = list(TABLE_ENTRY.iter_unpack(self._read(end - start, start)))
        self._firsts = [first for _, first in table]
        sizes = (size for size, _ in table)
        self._offsets = list(accumulate(sizes, initial=HEADER.size))

    @classmethod
    @contextmanager
    def opened(cls, path: Path) -> Iterator[Self]:
        """Raises SEGMENT_MALFORMED if the file does not hang together."""
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            yield cls(descriptor)
        except (struct.error, OverflowError) as error:
            raise malformed("its table does not lead to its pages") from error
        finally:
            os.close(descriptor)

    def holding(
        self, numbers: Sequence[int], *, payload: bool = False
    ) -> Iterator[tuple[Chunk, list[int]]]:
        """The chunks that hold some of these pages, given in order, and which ones."""
        for ordinal, group in groupby(numbers, self._ordinal):
            if ordinal < 0:
                continue
            chunk = self._chunk(ordinal, payload=payload)
            held = set(chunk.numbers)
            if hits := [number for number in group if number in held]:
                yield chunk, hits

    def _ordinal(self, number: int) -> int:
        """The only chunk that can hold the page; -1 if none can."""
        return bisect_right(self._firsts, number) - 1

    def _chunk(self, ordinal: int, *, payload: bool) -> Chunk:
        offset = self._offsets[ordinal]
        kind = self.header.kind
        head = ChunkHead.unpack(self._read(CHUNK_HEAD.size, offset))
        index_bytes = head.index_bytes(kind)
        wanted = index_bytes + (head.payload_bytes if payload else 0)
        raw = self._read(wanted, offset + CHUNK_HEAD.size)
        index = raw[:index_bytes]
        if kind is not Kind.DELTA:
            first = self._firsts[ordinal]
            numbers = range(first, first + head.pages)
            return Chunk(head, numbers, index, (), index, raw[index_bytes:])
        hashes = 4 * head.pages
        prefix = hashes + HASH_BYTES * head.pages
        return Chunk(
            head,
            struct.unpack(f"<{head.pages}I", index[:hashes]),
            index[hashes:prefix],
            struct.unpack(f"<{head.prefix_pages}I", index[prefix:]),
            index,
            raw[index_bytes:],
        )

    def _read(self, size: int, offset: int) -> bytes:
        if size < 0 or offset < 0:
            raise malformed("its table does not lead to its pages")
        data = read_all(self._descriptor, size, offset)
        if len(data) != size:
            raise malformed("it is shorter than its table says")
        return data
