"""Whole segments: verify one, read its pages or its bytes in order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Final

from blake3 import blake3

from services.segments.decode import Chunk, SegmentDecoder
from services.segments.layout import Kind, SegmentInfo, damaged, malformed
from services.segments.unpack import unpack

# Pages by number, joined: the latest that earlier deltas of the chain carry.
PrefixPages = Callable[[Sequence[int]], bytes]

# Also what a frame of a stream takes, a quarter of gRPC's limit: frames of a quarter of
# this make a download a fifth slower.
_READ_BYTES: Final = 1 << 20


def file_parts(file: BinaryIO) -> Iterator[bytes]:
    while part := file.read(_READ_BYTES):
        yield part


def verify(
    path: Path,
    prefix_pages: PrefixPages | None = None,
    *,
    database_bytes_max: int | None = None,
) -> SegmentInfo:
    """Proves the whole file, every page by its hash, or refuses it.

    Raises SEGMENT_MALFORMED, DIGEST_MISMATCH, SNAPSHOT_TOO_LARGE. Takes a few MiB
    whatever the file says. A delta with a prefix needs `prefix_pages`. That a delta's
    fingerprint is right shows only when it is applied.
    """
    with path.open("rb") as file:
        return verify_parts(file_parts(file), prefix_pages, database_bytes_max)


def verify_parts(
    parts: Iterable[bytes],
    prefix_pages: PrefixPages | None = None,
    database_bytes_max: int | None = None,
) -> SegmentInfo:
    decoder = SegmentDecoder(database_bytes_max)
    body = blake3()
    for part in parts:
        for chunk in decoder.feed(part):
            raw = unpack(chunk, _prefix(chunk, prefix_pages), each_page=True)
            if not chunk.numbers:
                body.update(raw)
    info = decoder.finish()
    if info.kind is Kind.OPAQUE:
        _check_body(info, body)
    return info


def read_pages(
    parts: Iterable[bytes], prefix_pages: PrefixPages | None = None
) -> Iterator[tuple[int, bytes]]:
    """Pages in order; whoever reads to the end has the digest of the whole proven."""
    decoder = SegmentDecoder()
    for part in parts:
        for chunk in decoder.feed(part):
            if not chunk.numbers:
                raise malformed("it holds opaque bytes, no pages")
            raw = unpack(chunk, _prefix(chunk, prefix_pages))
            size = len(raw) // len(chunk.numbers)
            for at, number in enumerate(chunk.numbers):
                yield number, raw[at * size : (at + 1) * size]
    decoder.finish()


def read_opaque(parts: Iterable[bytes]) -> Iterator[bytes]:
    """Opaque bytes in order; read to the end, the digests have proven them."""
    decoder = SegmentDecoder()
    body = blake3()
    for part in parts:
        for chunk in decoder.feed(part):
            if chunk.numbers:
                raise malformed("it holds pages, no opaque bytes")
            raw = unpack(chunk)
            body.update(raw)
            yield raw
    info = decoder.finish()
    if info.kind is not Kind.OPAQUE:
        raise malformed("it holds pages, no opaque bytes")
    _check_body(info, body)


def _check_body(info: SegmentInfo, body: blake3) -> None:
    if body.digest(length=16) != bytes(info.fingerprint):
        raise damaged("its bytes give another digest than its footer")


def _prefix(chunk: Chunk, prefix_pages: PrefixPages | None) -> bytes:
    if not chunk.prefix:
        return b""
    if prefix_pages is None:
        raise malformed("it needs the earlier deltas of its chain: read them first")
    return prefix_pages(chunk.prefix)
