"""The hash of every page of a database as it was last saved, and their fingerprint.

16 bytes a page, changed in place: 40 MiB for 10 GB, and never a second copy.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, Final, Self

from blake3 import blake3

from services.segments.disk import write_all
from services.segments.fingerprint import HASH_BYTES, ZERO, Fingerprint
from services.segments.layout import is_page_size

_MAGIC: Final = b"TKMAP\x00\x00\x02"
_PLAIN: Final = struct.Struct("<8sII16s")
_DIGEST_BYTES: Final = 16
_HEAD_BYTES: Final = _PLAIN.size + _DIGEST_BYTES
# More than this is written anew as quickly.
_UNSAVED_MAX: Final = 10_000
# Hashes whose contribution is computed in one go; bounds what unpacking them takes.
_BATCH: Final = 4096


class PageMap:
    """Empty until the first save; then of one page size until `reset`."""

    def __init__(self, page_size: int = 0) -> None:
        self.page_size = page_size
        self.fingerprint = ZERO
        self._hashes = bytearray()
        # Which pages, first and last, the file lacks; None: it lacks everything.
        self._unsaved: list[tuple[int, int]] | None = None

    @property
    def page_count(self) -> int:
        return len(self._hashes) // HASH_BYTES

    def hashes(self, first: int, count: int) -> bytes:
        """Those of up to `count` pages from `first` on; fewer at the end."""
        start = (first - 1) * HASH_BYTES
        return bytes(memoryview(self._hashes)[start : start + count * HASH_BYTES])

    def hashes_of(self, numbers: Sequence[int]) -> bytes:
        """Those of these pages, rising; fewer where they lie beyond the end."""
        if numbers[-1] - numbers[0] == len(numbers) - 1:
            return self.hashes(numbers[0], len(numbers))
        return b"".join([self.hashes(number, 1) for number in numbers])

    def reset(self, page_size: int = 0) -> None:
        self.page_size = page_size
        self.fingerprint = ZERO
        self._hashes = bytearray()
        self._unsaved = None

    def fingerprint_up_to(self, page_count: int) -> Fingerprint:
        """Of the database without the pages above."""
        fingerprint = self.fingerprint
        for first in range(page_count + 1, self.page_count + 1, _BATCH):
            hashes = self.hashes(first, _BATCH)
            numbers = range(first, first + len(hashes) // HASH_BYTES)
            fingerprint -= Fingerprint.of(numbers, hashes)
        return fingerprint

    def shrink(self, page_count: int) -> None:
        """Forgets the pages above; growing is what `replace` does."""
        self.fingerprint = self.fingerprint_up_to(page_count)
        del self._hashes[page_count * HASH_BYTES :]

    def replace(self, numbers: Sequence[int], hashes: bytes) -> None:
        """Sets the hashes of these pages; those above the end must come in order."""
        if not numbers:
            return
        if len(hashes) != len(numbers) * HASH_BYTES:
            raise ValueError("cannot set hashes: give one for each page")
        known = self.page_count
        if numbers[-1] - numbers[0] == len(numbers) - 1:
            self._replace_run(numbers[0], hashes, known)
        else:
            for at, number in enumerate(numbers):
                start = at * HASH_BYTES
                self._replace_run(number, hashes[start : start + HASH_BYTES], known)
                known = self.page_count
        self.fingerprint += Fingerprint.of(numbers, hashes)

    def _replace_run(self, first: int, hashes: bytes, known: int) -> None:
        if first > known + 1:
            raise ValueError(f"cannot set page {first} of {known}: leave no hole")
        old = self.hashes(first, len(hashes) // HASH_BYTES)
        if old:
            numbers = range(first, first + len(old) // HASH_BYTES)
            self.fingerprint -= Fingerprint.of(numbers, old)
        start = (first - 1) * HASH_BYTES
        self._hashes[start : start + len(hashes)] = hashes
        if self._unsaved is not None:
            self._unsaved.append((first, first + len(hashes) // HASH_BYTES - 1))
            if len(self._unsaved) > _UNSAVED_MAX:
                self._unsaved = None

    def save(self, path: Path) -> None:
        """Brings the file up to date, at the cost of what changed since the last time.

        It is a cache, so nothing is synced; what a crash leaves half done does not
        have the fingerprint that it says it has.
        """
        if self._unsaved is None or not self._update(path, self._unsaved):
            beside = path.with_name(path.name + ".new")
            with beside.open("wb") as file:
                file.write(self._head())
                file.write(self._hashes)
            os.replace(beside, path)
        self._unsaved = []

    def _update(self, path: Path, unsaved: list[tuple[int, int]]) -> bool:
        try:
            file = path.open("r+b")
        except FileNotFoundError:
            return False
        with file:
            view = memoryview(self._hashes)
            for first, last in unsaved:
                start, end = (first - 1) * HASH_BYTES, last * HASH_BYTES
                write_all(file.fileno(), view[start:end], _HEAD_BYTES + start)
            os.ftruncate(file.fileno(), _HEAD_BYTES + len(self._hashes))
            write_all(file.fileno(), self._head(), 0)
        return True

    def _head(self) -> bytes:
        plain = _PLAIN.pack(
            _MAGIC, self.page_size, self.page_count, bytes(self.fingerprint)
        )
        return plain + blake3(plain).digest(length=_DIGEST_BYTES)

    @classmethod
    def load(cls, path: Path) -> Self | None:
        """The map that was saved there; None if there is none that can be believed."""
        try:
            with path.open("rb") as file:
                return cls._read(file)
        except FileNotFoundError:
            return None

    @classmethod
    def _read(cls, file: BinaryIO) -> Self | None:
        head = file.read(_HEAD_BYTES)
        plain, digest = head[: _PLAIN.size], head[_PLAIN.size :]
        if blake3(plain).digest(length=_DIGEST_BYTES) != digest:
            return None
        magic, page_size, count, fingerprint = _PLAIN.unpack(plain)
        size = _HEAD_BYTES + count * HASH_BYTES
        if magic != _MAGIC or os.fstat(file.fileno()).st_size != size:
            return None
        if count and not is_page_size(page_size):
            return None
        page_map = cls(page_size)
        while part := file.read(_BATCH * HASH_BYTES):
            first = page_map.page_count + 1
            page_map.replace(range(first, first + len(part) // HASH_BYTES), part)
        if bytes(page_map.fingerprint) != fingerprint:
            return None
        page_map._unsaved = []
        return page_map
