"""Makes one segment of several that follow each other in a chain. Blocks.

The pages go through a scratch file that is as large as what changed, never through
memory. What comes out rests on no prefix, so later deltas may rest on it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from services.segments.decode import Chunk, SegmentDecoder
from services.segments.disk import refusing_full_disk
from services.segments.encode import SegmentEncoder, write_segment
from services.segments.fingerprint import Fingerprint, hash_pages
from services.segments.layout import Header, SegmentInfo, damaged, malformed
from services.segments.pack import Block
from services.segments.page_file import PageFile
from services.segments.read import file_parts
from services.segments.seek import SegmentFile
from services.segments.unpack import unpack
from services.snapshots.delta_proof import chunks, fingerprint_after, outline
from services.snapshots.disk_work import nameless_file
from services.snapshots.older_pages import fill


def merge_deltas(
    before: Sequence[Path], run: Sequence[Path], scratch: Path, target: Path
) -> SegmentInfo:
    """One delta that does what those of the run do, on a chain that begins with
    `before`, base first. Proven against what the run came to."""
    with nameless_file(scratch) as descriptor:
        merged = Merged(descriptor, before[1:], run)
        encoder = SegmentEncoder(merged.header, merged.blocks(), merged.fingerprint)
        info = _written(encoder, target)
    proven = fingerprint_after(outline(target), target, before[0], before[1:])
    return _checked(info, proven)


def fold(base: Path, run: Sequence[Path], scratch: Path, target: Path) -> SegmentInfo:
    """One base that is what the base and all its deltas come to."""
    with nameless_file(scratch) as descriptor:
        merged = Merged(descriptor, [], run)
        header = Header.base(merged.header.page_size, merged.header.page_count)
        encoder = SegmentEncoder(header, _folded(base, merged, header))
        return _checked(_written(encoder, target), merged.fingerprint)


class Merged:
    """The pages that deltas in a row leave, and the delta of them all.

    They stand in the file of the descriptor. `before` are the deltas between the base
    and the run: prefixes may rest on them.
    """

    def __init__(
        self, descriptor: int, before: Sequence[Path], run: Sequence[Path]
    ) -> None:
        self._run = run
        first = _header(run[0])
        self.file = PageFile(descriptor, first.page_size)
        with refusing_full_disk("the pages of a compaction"):
            fill(self.file, before, self._needed(descriptor))
            for path in run:
                info = self._apply(path)
        self.fingerprint = info.fingerprint
        count = sum(1 for _ in self.file.marked_pages(info.header.page_count))
        self.header = replace(first, page_count=info.header.page_count, pages=count)

    def blocks(self) -> Iterator[Block]:
        """The pages in order, as an encoder takes them."""
        numbers: list[int] = []
        for number in self.file.marked_pages(self.header.page_count):
            numbers.append(number)
            if len(numbers) == self.header.chunk_pages_max:
                yield self._block(numbers)
                numbers = []
        if numbers:
            yield self._block(numbers)

    def _block(self, numbers: list[int]) -> Block:
        data = self.file.read(numbers)
        return Block(tuple(numbers), hash_pages(data, self.header.page_size), data)

    def _needed(self, descriptor: int) -> set[int]:
        """Pages whose version before the run some prefix of the run means."""
        needed: set[int] = set()
        seen = PageFile(descriptor, 0)
        for path in self._run:
            for chunk in chunks(path):
                needed.update(n for n in chunk.prefix if not seen.marked(n))
            for chunk in chunks(path):
                seen.mark(chunk.numbers)
        return needed

    def _apply(self, path: Path) -> SegmentInfo:
        decoder = SegmentDecoder()
        with path.open("rb", buffering=0) as file:
            for part in file_parts(file):
                for chunk in decoder.feed(part):
                    self._place(chunk)
        return decoder.finish()

    def _place(self, chunk: Chunk) -> None:
        if isinstance(chunk.numbers, range):
            raise malformed("a chain has one base, at its beginning")
        prefix = self.file.read(chunk.prefix) if chunk.prefix else b""
        self.file.write(chunk.numbers, unpack(chunk, prefix, each_page=True))
        self.file.mark(chunk.numbers)


def _folded(base: Path, merged: Merged, header: Header) -> Iterator[Block]:
    """All pages: those of the base, where no delta has a later one."""
    size, file = header.page_size, merged.file
    parts = map(unpack, chunks(base))
    for first in range(1, header.page_count + 1, header.chunk_pages_max):
        end = min(first + header.chunk_pages_max, header.page_count + 1)
        data = bytearray(next(parts, b"")[: (end - first) * size])
        for number in range(first, end):
            if file.marked(number):
                at = (number - first) * size
                data[at : at + size] = file.read([number])
        if len(data) != (end - first) * size:
            raise malformed("a page of the chain is missing")
        yield Block(range(first, end), hash_pages(data, size), bytes(data))


def _header(path: Path) -> Header:
    with SegmentFile.opened(path) as segment:
        return segment.header


def _written(encoder: SegmentEncoder, target: Path) -> SegmentInfo:
    with refusing_full_disk("a compacted segment"), target.open("xb") as file:
        return write_segment(file, encoder)


def _checked(info: SegmentInfo, fingerprint: Fingerprint) -> SegmentInfo:
    if info.fingerprint != fingerprint:
        raise damaged("what its chain comes to is not what it was")
    return info
