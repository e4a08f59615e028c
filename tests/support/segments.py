"""Segments in memory: images of pages, and the segments that turn one into another."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence

from services.segments.encode import PrefixSource, SegmentEncoder
from services.segments.fingerprint import Fingerprint, hash_page
from services.segments.layout import Header, Kind
from services.segments.pack import Block, blocks

Image = list[bytes]


def image(page_count: int, page_size: int = 512, seed: int = 0) -> Image:
    """Pages half text, half noise, each unlike every other."""
    source = random.Random(f"{seed}-{page_size}")
    half = page_size // 2
    return [
        source.randbytes(half) + f"page {number} of {seed} ".encode().ljust(half, b".")
        for number in range(1, page_count + 1)
    ]


def edited(pages: Image, numbers: Iterable[int], mark: bytes) -> Image:
    """The image with a few bytes of these pages changed."""
    wanted = set(numbers)
    return [
        page[:40] + mark + page[40 + len(mark) :] if number in wanted else page
        for number, page in enumerate(pages, 1)
    ]


def fingerprint(pages: Image) -> Fingerprint:
    hashes = b"".join(map(hash_page, pages))
    return Fingerprint.of(range(1, len(pages) + 1), hashes)


def base(pages: Image, *, threads: int = 0) -> bytes:
    header = Header.base(len(pages[0]), len(pages))
    grouped = blocks(header, enumerate(pages, 1))
    return b"".join(SegmentEncoder(header, grouped, threads=threads))


def changes(old: Image, new: Image) -> list[tuple[int, bytes]]:
    return [
        (number, page)
        for number, page in enumerate(new, 1)
        if number > len(old) or old[number - 1] != page
    ]


def delta(
    old: Image,
    new: Image,
    prefix: PrefixSource | None = None,
    fingerprint_after: Fingerprint | None = None,
) -> bytes:
    pages = changes(old, new)
    header = Header(
        Kind.DELTA, len(new[0]), len(new), len(pages), len(old), fingerprint(old)
    )
    grouped = blocks(header, pages)
    after = fingerprint_after or fingerprint(new)
    return b"".join(SegmentEncoder(header, grouped, after, prefix=prefix))


def pieces(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


def prefix_pages(pages: Image) -> Callable[[Sequence[int]], bytes]:
    return lambda numbers: b"".join(pages[number - 1] for number in numbers)


def delta_blocks(old: Image, new: Image) -> Iterable[Block]:
    header = Header(Kind.DELTA, len(new[0]), len(new), 0, len(old))
    return blocks(header, changes(old, new))
