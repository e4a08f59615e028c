"""What a whole file changes of the state before, as a delta. Blocks.

Whoever sends the whole file each time gets history at the price of what differs.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from services.segments.disk import read_all, refusing_full_disk
from services.segments.encode import SegmentEncoder, write_segment
from services.segments.fingerprint import HASH_BYTES
from services.segments.layout import Header, Kind
from services.segments.pack import blocks
from services.segments.page_map import PageMap
from services.snapshots.delta_proof import page_map_of
from services.snapshots.generations import Addition
from services.snapshots.segment_files import addition, hashed_pages

_PAGES_AT_ONCE: Final = 64
# Above this share of its pages a base costs hardly more and makes a short chain.
_CHANGED_MAX: Final = 0.5


def encode_changes(
    source: Path, target: Path, chain: Sequence[Path]
) -> Addition | None:
    """Makes a delta from the chain's state to a sound SQLite file of its page size;
    None, and no segment, where a base is hardly larger. Raises SEGMENT_MALFORMED,
    DIGEST_MISMATCH for the chain."""
    known = page_map_of(chain)
    size, parent = known.page_size, (known.page_count, known.fingerprint)
    page_count = source.stat().st_size // size
    with source.open("rb") as file, refusing_full_disk("the segment"):
        changed = array("I")
        known.shrink(min(known.page_count, page_count))
        for numbers, hashes, _ in hashed_pages(file, size, _PAGES_AT_ONCE):
            changed.extend(_replaced(known, numbers, hashes))
            if len(changed) > _CHANGED_MAX * page_count:
                return None
        header = Header(Kind.DELTA, size, page_count, len(changed), *parent)
        pages = ((n, read_all(file.fileno(), size, (n - 1) * size)) for n in changed)
        encoder = SegmentEncoder(header, blocks(header, pages), known.fingerprint)
        with target.open("xb") as segment:
            return addition(write_segment(segment, encoder))


def _replaced(known: PageMap, numbers: range, hashes: bytes) -> Iterator[int]:
    """Brings the map up to date; the pages whose hashes were others."""
    old = known.hashes(numbers.start, len(numbers))
    if old == hashes:
        return
    for number, at in zip(numbers, range(0, len(hashes), HASH_BYTES), strict=True):
        new = hashes[at : at + HASH_BYTES]
        if new != old[at : at + HASH_BYTES]:
            known.replace((number,), new)
            yield number
