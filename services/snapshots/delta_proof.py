"""What a delta makes of the head's fingerprint, from hashes alone. Blocks.

The pages that a delta replaces have hashes in the chain's own indexes; taking those
away and adding the new ones gives the fingerprint after it. Nothing is unpacked, so
for a few pages the cost does not follow the size of the database.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

from services.segments.decode import Chunk, SegmentDecoder
from services.segments.fingerprint import HASH_BYTES, Fingerprint
from services.segments.layout import HEADER, Header, Kind, malformed
from services.segments.page_map import PageMap
from services.segments.read import file_parts
from services.segments.seek import SegmentFile

# Above this, a map of all pages (16 bytes each) takes less memory and no more time.
SPARSE_PAGES_MAX: Final = 50_000
# The deltas of sixteen chains under work, 16 MiB at most.
REMEMBERED_MAX: Final = 256
REMEMBERED_BYTES_MAX: Final = 64 << 10


@dataclass(frozen=True, slots=True)
class Outline:
    """What a segment says before anything of it is unpacked."""

    header: Header
    prefix: frozenset[int]  # pages that its prefixes name
    pages: frozenset[int]  # pages that it replaces or drops; empty if too many
    contribution: Fingerprint


def outline(path: Path, *, sparse_pages_max: int = SPARSE_PAGES_MAX) -> Outline:
    """Raises SEGMENT_MALFORMED, DIGEST_MISMATCH; only deltas are read to the end."""
    with path.open("rb") as file:
        decoder = SegmentDecoder()
        parts = file_parts(file)
        for _ in decoder.feed(next(parts, b"")[: HEADER.size]):
            raise AssertionError("a header holds no chunk")
    header = decoder.header
    if header is None:
        decoder.finish()
        raise AssertionError("finish refuses what has no header")
    if header.kind is not Kind.DELTA:
        return Outline(header, frozenset(), frozenset(), Fingerprint())
    return _delta_outline(header, path, sparse_pages_max)


def _delta_outline(header: Header, path: Path, sparse_pages_max: int) -> Outline:
    prefix: set[int] = set()
    touched: set[int] = set()
    contribution = Fingerprint()
    sparse = _pages_changed(header) <= sparse_pages_max
    for chunk in _decoded(path):
        prefix.update(chunk.prefix)
        contribution += Fingerprint.of(chunk.numbers, chunk.hashes)
        if sparse:
            touched.update(n for n in chunk.numbers if n <= header.parent_page_count)
    if sparse:
        touched.update(range(header.page_count + 1, header.parent_page_count + 1))
    return Outline(header, frozenset(prefix), frozenset(touched), contribution)


def fingerprint_after(
    found: Outline, delta: Path, base: Path, deltas: Sequence[Path]
) -> Fingerprint:
    """The fingerprint of the chain's database with this delta on top."""
    if len(found.pages) < _pages_changed(found.header):
        return page_map_of((base, *deltas, delta)).fingerprint
    old = Fingerprint()
    wanted = sorted(found.pages)
    for path in (*reversed(deltas), base):
        if not wanted:
            break
        taken: set[int] = set()
        with SegmentFile.opened(path) as segment:
            for chunk, hits in segment.holding(wanted):
                old += _weighed(chunk, hits)
                taken.update(hits)
        wanted = [number for number in wanted if number not in taken]
    if wanted:
        raise malformed("a page of the chain is missing")
    return found.header.parent_fingerprint - old + found.contribution


def chunks(path: Path) -> Iterable[Chunk]:
    """Every chunk of a stored segment. A small one is remembered: each save of a chain
    looks through the same deltas, up to three times."""
    found = path.stat()
    if found.st_size > REMEMBERED_BYTES_MAX:
        return _decoded(path)
    # Nothing changes a segment but rot and what heals it, and both leave a trace.
    return _remembered(path, found.st_ino, found.st_mtime_ns, found.st_size)


@lru_cache(REMEMBERED_MAX)
def _remembered(path: Path, inode: int, changed_ns: int, size: int) -> Sequence[Chunk]:
    return tuple(_decoded(path))


def _decoded(path: Path) -> Iterator[Chunk]:
    decoder = SegmentDecoder()
    with path.open("rb") as file:
        for part in file_parts(file):
            yield from decoder.feed(part)


def _pages_changed(header: Header) -> int:
    """Pages of the state before that the delta replaces or drops."""
    grown = max(header.page_count - header.parent_page_count, 0)
    dropped = max(header.parent_page_count - header.page_count, 0)
    return header.pages - grown + dropped


def _weighed(chunk: Chunk, numbers: Sequence[int]) -> Fingerprint:
    place = {number: at * HASH_BYTES for at, number in enumerate(chunk.numbers)}
    hashes = [chunk.hashes[place[n] : place[n] + HASH_BYTES] for n in numbers]
    return Fingerprint.of(numbers, b"".join(hashes))


def page_map_of(chain: Iterable[Path]) -> PageMap:
    """The hash of every page of a base with its deltas. Raises SEGMENT_MALFORMED,
    DIGEST_MISMATCH."""
    page_map = PageMap()
    for path in chain:
        with path.open("rb") as file:
            decoder = SegmentDecoder()
            begun = False
            for part in file_parts(file):
                for chunk in decoder.feed(part):
                    if not begun:
                        _begin(page_map, decoder.header)
                        begun = True
                    page_map.replace(chunk.numbers, chunk.hashes)
        if not begun:
            _begin(page_map, decoder.header)
    return page_map


def _begin(page_map: PageMap, header: Header | None) -> None:
    assert header is not None
    if header.kind is Kind.BASE:
        page_map.reset(header.page_size)
    elif header.page_count < page_map.page_count:
        page_map.shrink(header.page_count)
