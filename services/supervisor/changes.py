"""What differs between a database and the page map of its last save."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

from services.segments.disk import read_all, refusing_full_disk
from services.segments.fingerprint import HASH_BYTES, Fingerprint, hash_pages
from services.segments.layout import Header, Kind
from services.segments.page_map import PageMap
from services.supervisor.capture import Capture, Entries, ImagePages, KeptPages, Shape

_SCAN_BYTES: Final = 1 << 20


class Differences:
    """Collects the pages that differ, as they are looked at in rising order."""

    def __init__(self, shape: Shape, page_map: PageMap, entries: Entries) -> None:
        self._shape = shape
        self._map = page_map
        self.entries = entries
        self.fingerprint = page_map.fingerprint_up_to(shape.page_count)

    @property
    def are_most(self) -> bool:
        """As large as a base, and a base makes every later restore shorter."""
        return 2 * self.entries.count > self._shape.page_count

    def look(self, numbers: Sequence[int], data: bytes) -> list[int]:
        """Notes those of these pages that differ; where in the row they stand."""
        hashes = hash_pages(data, self._shape.page_size)
        if len(hashes) != len(numbers) * HASH_BYTES:
            raise OSError(f"cannot read page {numbers[0]}: the database is short")
        old = self._map.hashes_of(numbers)
        if old == hashes:
            return []
        places = [
            at
            for at in range(len(numbers))
            if _hash_of(at, hashes) != _hash_of(at, old)
        ]
        changed = [numbers[at] for at in places]
        fresh = [_hash_of(at, hashes) for at in places]
        stale = [_hash_of(at, old) for at in places if _hash_of(at, old)]
        self.entries.append(changed, fresh)
        self.fingerprint += Fingerprint.of(changed, b"".join(fresh))
        self.fingerprint -= Fingerprint.of(changed[: len(stale)], b"".join(stale))
        return places

    def header(self) -> Header | None:
        """Of the delta that they make; None if nothing differs."""
        count, before = self._shape.page_count, self._map.page_count
        if not self.entries.count and count == before:
            return None
        return Header(
            Kind.DELTA,
            self._shape.page_size,
            count,
            self.entries.count,
            before,
            self._map.fingerprint,
        )


def delta(
    groups: Iterable[Sequence[int]],
    read: Callable[[Sequence[int]], bytes],
    shape: Shape,
    page_map: PageMap,
    scratch: Path,
) -> Capture | Header | None:
    """The capture of those of the pages that differ, kept aside; None when nothing
    does, the header of a base when so much does that a base is better."""
    entries, kept = Entries(scratch), KeptPages(scratch)
    done = False
    try:
        with refusing_full_disk("the changed pages"):
            found = Differences(shape, page_map, entries)
            for numbers in groups:
                data = read(numbers)
                places = found.look(numbers, data)
                kept.append([_page(at, data, shape.page_size) for at in places])
                if found.are_most:
                    return Header.base(*shape)
        header = found.header()
        if header is None:
            return None
        capture = Capture(header, entries, kept, page_map)
        capture.fingerprint = found.fingerprint
        done = True
        return capture
    finally:
        if not done:
            entries.close()
            kept.close()


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
    entries, pages = Entries(scratch), ImagePages(image)
    capture = None
    try:
        with refusing_full_disk("the list of changed pages"):
            capture = _compared(image, shape, page_map, entries, pages, base)
    finally:
        if capture is None:
            entries.close()
            pages.close()
    return capture


def _compared(
    image: int,
    shape: Shape,
    page_map: PageMap,
    entries: Entries,
    pages: ImagePages,
    base: bool,
) -> Capture | None:
    read = _reader(image, shape.page_size)
    if not base and page_map.page_size == shape.page_size:
        found = Differences(shape, page_map, entries)
        for numbers in all_pages(shape):
            found.look(numbers, read(numbers))
        header = found.header()
        if header is None:
            return None
        if not found.are_most:
            capture = Capture(header, entries, pages, page_map)
            capture.fingerprint = found.fingerprint
            return capture
        entries.clear()
    whole = Differences(shape, PageMap(shape.page_size), entries)
    for numbers in all_pages(shape):
        whole.look(numbers, read(numbers))
    capture = Capture(Header.base(*shape), entries, pages, page_map)
    capture.fingerprint = whole.fingerprint
    return capture


def all_pages(shape: Shape) -> Iterable[range]:
    """Every page, in order, as many at a time as one read takes."""
    step, end = _SCAN_BYTES // shape.page_size, shape.page_count + 1
    return (range(first, min(first + step, end)) for first in range(1, end, step))


def _reader(image: int, size: int) -> Callable[[Sequence[int]], bytes]:
    def read(numbers: Sequence[int]) -> bytes:
        return read_all(image, len(numbers) * size, (numbers[0] - 1) * size)

    return read


def _hash_of(at: int, hashes: bytes) -> bytes:
    return hashes[at * HASH_BYTES : (at + 1) * HASH_BYTES]


def _page(at: int, data: bytes, size: int) -> bytes:
    return data[at * size : (at + 1) * size]
