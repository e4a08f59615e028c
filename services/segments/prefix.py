"""What a delta's prefix is made of: the latest pages that the chain's deltas carried.

A cache on the writing side only. Empty it when a chain begins and when in doubt: a
delta without prefix is always right, only larger.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from services.segments.pack import Block, Prefix

CACHE_BYTES_MAX: Final = 1 << 20


class PrefixCache:
    """Holds pages of acknowledged deltas; those of a delta in flight wait aside."""

    def __init__(self, size_bytes_max: int = CACHE_BYTES_MAX) -> None:
        self._limit = size_bytes_max
        self._pages: OrderedDict[int, bytes] = OrderedDict()
        self._size_bytes = 0
        self._flying: dict[int, bytes] = {}
        self._flying_bytes = 0

    def source(self, numbers: Sequence[int], lowest: int, most: int) -> Prefix:
        """The older versions of a chunk's own pages, as `SegmentEncoder` asks."""
        known = [n for n in numbers if n >= lowest and n in self._pages][:most]
        return Prefix(known, b"".join([self._pages[number] for number in known]))

    def offer(self, block: Block) -> Block:
        """Remembers what a delta in flight carries; passes it on. A delta beyond the
        limit fills the cache alone, so no version older than its pages stays."""
        size = len(block.data) // len(block.numbers)
        for at, number in enumerate(block.numbers):
            if self._flying_bytes + size > self._limit:
                return block
            self._flying[number] = block.data[at * size : (at + 1) * size]
            self._flying_bytes += size
        return block

    def commit(self, page_count: int) -> None:
        """The delta in flight is part of the chain now."""
        for number, data in self._flying.items():
            self._forget(number)
            self._pages[number] = data
            self._size_bytes += len(data)
        for number in [n for n in self._pages if n > page_count]:
            self._forget(number)
        while self._size_bytes > self._limit:
            self._forget(next(iter(self._pages)))
        self.discard()

    def discard(self) -> None:
        """The delta in flight did not become part of the chain."""
        self._flying.clear()
        self._flying_bytes = 0

    def reset(self) -> None:
        """A chain begins: nothing may be named any more."""
        self.discard()
        self._pages.clear()
        self._size_bytes = 0

    def _forget(self, number: int) -> None:
        self._size_bytes -= len(self._pages.pop(number, b""))
