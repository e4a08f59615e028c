"""Hashes of pages, and the fingerprint that binds a database's content.

The fingerprint sums page hashes weighted by page number: it can be carried forward
page by page, and it sees two pages swapped. It guards against accidents; against
an adversary only the digest of a segment does.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from operator import mul
from typing import Final, Self

from blake3 import blake3

HASH_BYTES: Final = 16
FINGERPRINT_BYTES: Final = 16
_LANE_MASK: Final = (1 << 64) - 1


def hash_page(page: bytes | memoryview) -> bytes:
    return blake3(page).digest(length=HASH_BYTES)


def hash_pages(pages: bytes | bytearray | memoryview, page_size: int) -> bytes:
    """The hashes of consecutive pages, one after the other."""
    view = memoryview(pages)
    return b"".join(
        [
            blake3(view[start : start + page_size]).digest(length=HASH_BYTES)
            for start in range(0, len(view), page_size)
        ]
    )


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Two sums modulo 2^64; immutable, so carrying it forward makes a new one."""

    low: int = 0
    high: int = 0

    @classmethod
    def of(cls, numbers: Sequence[int], hashes: bytes) -> Self:
        """What these pages add to the fingerprint of a database that holds them."""
        lanes = struct.unpack(f"<{2 * len(numbers)}Q", hashes)
        weights: Sequence[int]
        if isinstance(numbers, range) and numbers.step == 1:
            weights = range(2 * numbers.start + 1, 2 * numbers.stop + 1, 2)
        else:
            weights = [2 * number + 1 for number in numbers]
        return cls(
            sum(map(mul, lanes[::2], weights)) & _LANE_MASK,
            sum(map(mul, lanes[1::2], weights)) & _LANE_MASK,
        )

    @classmethod
    def from_bytes(cls, raw: bytes) -> Self:
        if len(raw) != FINGERPRINT_BYTES:
            raise ValueError(f"cannot read a fingerprint of {len(raw)} bytes: give 16")
        return cls(*struct.unpack("<QQ", raw))

    def __bytes__(self) -> bytes:
        return struct.pack("<QQ", self.low, self.high)

    def __str__(self) -> str:
        return bytes(self).hex()

    def __add__(self, other: Fingerprint) -> Fingerprint:
        return Fingerprint(
            (self.low + other.low) & _LANE_MASK, (self.high + other.high) & _LANE_MASK
        )

    def __sub__(self, other: Fingerprint) -> Fingerprint:
        return Fingerprint(
            (self.low - other.low) & _LANE_MASK, (self.high - other.high) & _LANE_MASK
        )


ZERO: Final = Fingerprint()
