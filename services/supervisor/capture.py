"""What one save takes from a database: pages of one committed state, handed out in
order, and what becomes of the page map once the save is acknowledged.

A capture is no save: commit it only when the store has acknowledged one.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from tempfile import SpooledTemporaryFile
from types import TracebackType
from typing import Final, NamedTuple, Protocol, Self

from services.segments.disk import read_all
from services.segments.fingerprint import Fingerprint, hash_pages
from services.segments.layout import Header, Kind
from services.segments.pack import Block
from services.segments.page_file import runs
from services.segments.page_map import PageMap

_ENTRY: Final = struct.Struct("<I16s")
# A save of some thousand pages stays in memory, a larger one does not.
_LIST_BYTES_MAX: Final = 1 << 20
_DATA_BYTES_MAX: Final = 8 << 20
_BATCH: Final = 4096


class Shape(NamedTuple):
    """Of a database: how many pages of which size."""

    page_size: int
    page_count: int


class StateMoved(Exception):
    """The state went away while it was read: take another capture. Whoever reads the
    blocks of a base meets it."""


class Way(StrEnum):
    """How a capture was read."""

    NOTHING = "nothing"  # there was nothing to read
    LOG = "log"  # the pages that the log names
    TAIL = "tail"  # the same, over the end of the log before
    FULL = "full"  # every page compared
    BASE = "base"  # every page taken
    BACKUP = "backup"  # every page, through SQLite's online backup


@dataclass(frozen=True, slots=True)
class Reading:
    """What the last capture cost."""

    way: Way
    pages: int = 0  # that were looked at
    held_s: float = 0.0  # for how long its read transaction was open
    log_frames: int = 0  # length of the log


class Source(Protocol):
    """A live database. All calls from one thread; SQLite objects never leave it."""

    @property
    def reading(self) -> Reading:
        """What the last capture cost, once its pages have been read."""

    def changed(self) -> bool:
        """Whether anything was written since the last committed capture; cheap.
        May say yes for no reason, never no."""

    def capture(self, page_map: PageMap, *, base: bool = False) -> Capture | None:
        """What differs from the map, all of one committed state; everything when the
        map does not fit or `base` asks for it. None: nothing to save."""

    def let_go(self) -> None:
        """Ends a read transaction that was kept open for the next capture."""

    def close(self) -> None:
        """Lets go of the database. Captures taken stay good, but for a base whose
        pages were not read yet."""


class Entries:
    """Numbers and hashes of pages, in order; on disk when there are many."""

    def __init__(self, scratch: Path) -> None:
        self._file = SpooledTemporaryFile(_LIST_BYTES_MAX, dir=str(scratch))  # noqa: SIM115
        self.count = 0

    def append(self, numbers: Sequence[int], hashes: Sequence[bytes]) -> None:
        self._file.write(b"".join(map(_ENTRY.pack, numbers, hashes)))
        self.count += len(numbers)

    def listed(self, most: int) -> Iterator[tuple[Sequence[int], bytes]]:
        """All of them, so many at a time."""
        position = 0
        while True:
            self._file.seek(position)
            raw = self._file.read(most * _ENTRY.size)
            if not raw:
                return
            position += len(raw)
            numbers, hashes = zip(*_ENTRY.iter_unpack(raw), strict=True)
            yield _as_range(numbers), b"".join(hashes)

    def clear(self) -> None:
        self._file.seek(0)
        self._file.truncate()
        self.count = 0

    def close(self) -> None:
        self._file.close()


class Pages(Protocol):
    """Where the data of a capture's pages is."""

    def blocks(self, header: Header, entries: Entries) -> Iterator[Block]:
        """The pages in order, as `SegmentEncoder` takes them."""

    def close(self) -> None:
        """Gives back what they take. Safe to repeat."""


class ImagePages:
    """In an image of the whole database, a file whose descriptor this owns."""

    def __init__(self, image: int) -> None:
        self._image = image

    def blocks(self, header: Header, entries: Entries) -> Iterator[Block]:
        size = header.page_size
        for numbers, hashes in entries.listed(header.chunk_pages_max):
            data = [
                read_all(self._image, count * size, (first - 1) * size)
                for first, count in runs(numbers)
            ]
            yield Block(numbers, hashes, b"".join(data))

    def close(self) -> None:
        if self._image >= 0:
            os.close(self._image)
            self._image = -1


class KeptPages:
    """Kept aside as they were found, one after the other."""

    def __init__(self, scratch: Path) -> None:
        self._file = SpooledTemporaryFile(_DATA_BYTES_MAX, dir=str(scratch))  # noqa: SIM115

    def append(self, pages: Sequence[bytes]) -> None:
        self._file.write(b"".join(pages))

    def blocks(self, header: Header, entries: Entries) -> Iterator[Block]:
        position = 0
        for numbers, hashes in entries.listed(header.chunk_pages_max):
            self._file.seek(position)
            data = self._file.read(len(numbers) * header.page_size)
            position += len(data)
            yield Block(numbers, hashes, data)

    def close(self) -> None:
        self._file.close()


class StreamedPages:
    """Still in the live database: all of them, read once, while a read transaction
    holds them. `done` ends it, and raises StateMoved if they are of no one state."""

    def __init__(
        self, read: Callable[[Sequence[int]], bytes], done: Callable[[bool], None]
    ) -> None:
        self._read = read
        self._done = done
        self._open = True

    def blocks(self, header: Header, entries: Entries) -> Iterator[Block]:
        step, end = header.chunk_pages_max, header.page_count + 1
        for first in range(1, end, step):
            numbers = range(first, min(first + step, end))
            data = self._read(numbers)
            hashes = hash_pages(data, header.page_size)
            entries.append(numbers, _split(hashes))
            yield Block(numbers, hashes, data)
        self._open = False
        self._done(True)

    def close(self) -> None:
        if self._open:
            self._open = False
            self._done(False)


class Capture:
    """Pages of one committed state, and what committing them does to the map."""

    def __init__(
        self, header: Header, entries: Entries, pages: Pages, page_map: PageMap
    ) -> None:
        self.header = header
        # Of the database, once this is applied; a base has it from its pages.
        self.fingerprint: Fingerprint | None = None
        self.on_commit: Callable[[], None] | None = None
        self._entries = entries
        self._pages = pages
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
        """The pages in order. Those of a base may be readable only once."""
        return self._pages.blocks(self.header, self._entries)

    def numbers(self) -> Iterator[int]:
        """Of its pages, in order."""
        for numbers, _ in self._entries.listed(_BATCH):
            yield from numbers

    def commit(self, kept: Path | None = None) -> None:
        """The save was acknowledged: from now on changes are counted from it. The map
        is kept in that file, for a supervisor after this one."""
        header = self.header
        if header.kind is Kind.BASE:
            self._map.reset(header.page_size)
        elif self._map.fingerprint != header.parent_fingerprint:
            raise ValueError("cannot commit a capture on a map that moved on")
        self._map.shrink(min(header.page_count, self._map.page_count))
        for numbers, hashes in self._entries.listed(_BATCH):
            self._map.replace(numbers, hashes)
        if kept is not None:
            with suppress(OSError):  # a full disk costs a base, no save
                self._map.save(kept)
        if self.on_commit is not None:
            self.on_commit()

    def close(self) -> None:
        """Gives the scratch space back. Safe to repeat."""
        self._pages.close()
        self._entries.close()


def _as_range(numbers: tuple[int, ...]) -> Sequence[int]:
    if numbers[-1] - numbers[0] == len(numbers) - 1:
        return range(numbers[0], numbers[-1] + 1)
    return numbers


def _split(hashes: bytes) -> list[bytes]:
    return [hashes[at : at + 16] for at in range(0, len(hashes), 16)]
