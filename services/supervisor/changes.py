"""What changed in a database since the last save: found, kept aside, handed out.

A capture outlives the read transaction it came from: its pages stand in a file of its
own. It is no save: commit it only when the store has acknowledged one.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import SpooledTemporaryFile
from types import TracebackType
from typing import Final, NamedTuple, Protocol, Self

from services.segments.disk import read_all, refusing_full_disk
from services.segments.fingerprint import HASH_BYTES, ZERO, Fingerprint, hash_pages
from services.segments.layout import Header, Kind
from services.segments.pack import Block
from services.segments.page_file import runs
from services.segments.page_map import PageMap

_ENTRY: Final = struct.Struct("<I16s")
_SCAN_BYTES: Final = 1 << 20
# A save of some thousand pages keeps its list of hashes in memory, a larger one not.
_LIST_BYTES_MAX: Final = 1 << 20
_BATCH: Final = 4096


class Shape(NamedTuple):
    """Of a database: how many pages of which size."""

    page_size: int
    page_count: int


class Source(Protocol):
    """A live database. All calls from one thread; SQLite objects never leave it."""

    def changed(self) -> bool:
        """Whether anything was written since the last committed capture; cheap.
        May say yes for no reason, never no."""

    def capture(self, page_map: PageMap, *, base: bool = False) -> Capture | None:
        """What differs from the map, all of one committed state; everything when the
        map does not fit or `base` asks for it. None: nothing to save."""

    def close(self) -> None:
        """Lets go of the database. Captures taken stay good."""


class Capture:
    """Pages of one committed state, and what committing them does to the map."""

    def __init__(
        self,
        image: int,
        header: Header,
        fingerprint: Fingerprint,
        entries: SpooledTemporaryFile[bytes],
        page_map: PageMap,
    ) -> None:
        self.header = header
        self.fingerprint = fingerprint  # of the database, once this is applied
        self.on_commit: Callable[[], None] | None = None
        self._image = image
        self._entries = entries
        self._map = page_map

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def blocks(self) -> Iterator[Block]:
        """The pages in order, as `SegmentEncoder` takes them; may be read again."""
        size = self.header.page_size
        for numbers, hashes in self._listed(self.header.chunk_pages_max):
            data = [
                read_all(self._image, count * size, (first - 1) * size)
                for first, count in runs(numbers)
            ]
            yield Block(_as_range(numbers), hashes, b"".join(data))

    def commit(self) -> None:
        """The save was acknowledged: from now on changes are counted from it."""
        header = self.header
        if header.kind is Kind.BASE:
            self._map.reset(header.page_size)
        elif self._map.fingerprint != header.parent_fingerprint:
            raise ValueError("cannot commit a capture on a map that moved on")
        self._map.shrink(min(header.page_count, self._map.page_count))
        for numbers, hashes in self._listed(_BATCH):
            self._map.replace(_as_range(numbers), hashes)
        if self.on_commit is not None:
            self.on_commit()

    def close(self) -> None:
        """Gives the scratch space back. Safe to repeat."""
        if self._image >= 0:
            os.close(self._image)
            self._entries.close()
            self._image = -1

    def _listed(self, count: int) -> Iterator[tuple[tuple[int, ...], bytes]]:
        position = 0
        while True:
            self._entries.seek(position)
            raw = self._entries.read(count * _ENTRY.size)
            if not raw:
                return
            position += len(raw)
            numbers, hashes = zip(*_ENTRY.iter_unpack(raw), strict=True)
            yield numbers, b"".join(hashes)


def _as_range(numbers: tuple[int, ...]) -> range | tuple[int, ...]:
    if numbers[-1] - numbers[0] == len(numbers) - 1:
        return range(numbers[0], numbers[-1] + 1)
    return numbers


def compare(
    image: int,
    shape: Shape,
    page_map: PageMap,
    scratch: Path,
    *,
    base: bool = False,
) -> Capture | None:
    """The capture of an image of the whole database; owns its descriptor from now on.

    None, and the descriptor closed, when the map says the same.
    """
    whole = base or page_map.page_size != shape.page_size
    entries = SpooledTemporaryFile(_LIST_BYTES_MAX, dir=str(scratch))  # noqa: SIM115
    try:
        with refusing_full_disk("the list of changed pages"):
            pages, after = _list_changes(image, shape, page_map, entries, whole)
            if not whole and 2 * pages > shape.page_count:
                # As large as a base, and a base makes every later restore shorter.
                whole = True
                entries.seek(0)
                pages, after = _list_changes(image, shape, page_map, entries, whole)
    except BaseException:
        entries.close()
        os.close(image)
        raise
    header = Header.base(*shape) if whole else _delta(shape, pages, page_map)
    capture = Capture(image, header, after, entries, page_map)
    if whole or pages or shape.page_count != page_map.page_count:
        return capture
    capture.close()
    return None


def _delta(shape: Shape, pages: int, page_map: PageMap) -> Header:
    return Header(
        Kind.DELTA,
        shape.page_size,
        shape.page_count,
        pages,
        page_map.page_count,
        page_map.fingerprint,
    )


def _list_changes(
    image: int,
    shape: Shape,
    page_map: PageMap,
    entries: SpooledTemporaryFile[bytes],
    whole: bool,
) -> tuple[int, Fingerprint]:
    """Writes number and hash of each changed page; their count, and the fingerprint
    that the database has with them."""
    size, count = shape
    found = 0
    fingerprint = ZERO if whole else _without_dropped(page_map, count)
    step = _SCAN_BYTES // size
    for first in range(1, count + 1, step):
        wanted = min(step, count + 1 - first)
        data = read_all(image, wanted * size, (first - 1) * size)
        hashes = hash_pages(data, size)
        if len(hashes) != wanted * HASH_BYTES:
            raise OSError(f"cannot read page {first} of {count}: the image is short")
        old = b"" if whole else page_map.hashes(first, wanted)
        if old == hashes:
            continue
        numbers = _differing(first, hashes, old)
        known = first + len(old) // HASH_BYTES
        before = [number for number in numbers if number < known]
        changed = [_hash_of(number - first, hashes) for number in numbers]
        entries.write(b"".join(map(_ENTRY.pack, numbers, changed)))
        found += len(numbers)
        fingerprint += Fingerprint.of(numbers, b"".join(changed))
        replaced = b"".join([_hash_of(number - first, old) for number in before])
        fingerprint -= Fingerprint.of(before, replaced)
    return found, fingerprint


def _differing(first: int, hashes: bytes, old: bytes) -> Sequence[int]:
    count = len(hashes) // HASH_BYTES
    if not old:
        return range(first, first + count)
    return [
        first + at for at in range(count) if _hash_of(at, hashes) != _hash_of(at, old)
    ]


def _hash_of(at: int, hashes: bytes) -> bytes:
    return hashes[at * HASH_BYTES : (at + 1) * HASH_BYTES]


def _without_dropped(page_map: PageMap, page_count: int) -> Fingerprint:
    """The map's fingerprint less the pages that the database has no more."""
    fingerprint = page_map.fingerprint
    for first in range(page_count + 1, page_map.page_count + 1, _BATCH):
        hashes = page_map.hashes(first, _BATCH)
        numbers = range(first, first + len(hashes) // HASH_BYTES)
        fingerprint -= Fingerprint.of(numbers, hashes)
    return fingerprint
