"""Pages at their places in a file, and which of them came from deltas.

Knows nothing of segments' bytes: it is what a chain is applied to.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from services.segments.disk import read_all, write_all


class PageFile:
    """Borrows the descriptor. Growing in order is four times faster than holes."""

    def __init__(self, descriptor: int, page_size: int) -> None:
        self.page_size = page_size
        self._descriptor = descriptor
        self._from_deltas = bytearray()

    def write(self, numbers: Sequence[int], data: bytes) -> None:
        view = memoryview(data)
        done = 0
        for first, count in runs(numbers):
            size = count * self.page_size
            offset = (first - 1) * self.page_size
            write_all(self._descriptor, view[done : done + size], offset)
            done += size

    def read(self, numbers: Sequence[int]) -> bytes:
        return b"".join(
            [
                read_all(
                    self._descriptor,
                    count * self.page_size,
                    (first - 1) * self.page_size,
                )
                for first, count in runs(numbers)
            ]
        )

    def truncate(self, page_count: int) -> None:
        """Drops the pages above. Their marks may stay: when the database grows again,
        a delta brings them."""
        size_bytes = page_count * self.page_size
        if os.fstat(self._descriptor).st_size > size_bytes:
            os.ftruncate(self._descriptor, size_bytes)

    def mark(self, numbers: Sequence[int]) -> None:
        """These pages came from a delta."""
        missing = numbers[-1] // 8 + 1 - len(self._from_deltas)
        if missing > 0:
            self._from_deltas += bytes(missing)
        for number in numbers:
            self._from_deltas[number // 8] |= 1 << number % 8

    def marked_pages(self, page_count: int) -> Iterator[int]:
        """Those up to this one that came from a delta, in order."""
        for at, byte in enumerate(self._from_deltas):
            if not byte:
                continue
            for number in range(8 * at, 8 * at + 8):
                if byte & 1 << number % 8 and number <= page_count:
                    yield number

    def marked(self, number: int) -> bool:
        byte = number // 8
        if byte >= len(self._from_deltas):
            return False
        return bool(self._from_deltas[byte] & 1 << number % 8)


def runs(numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    """The numbers as (first, count) of consecutive ones, in the order given."""
    if isinstance(numbers, range) and numbers.step == 1:
        if numbers:
            yield numbers.start, len(numbers)
        return
    first, count = 0, 0
    for number in numbers:
        if count and number == first + count:
            count += 1
            continue
        if count:
            yield first, count
        first, count = number, 1
    if count:
        yield first, count
