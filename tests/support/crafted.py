"""Segments put together from parts, each sound, as no writer would."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from blake3 import blake3

from services.segments import layout
from services.segments.fingerprint import Fingerprint, hash_pages
from services.segments.layout import ChunkHead, Encoding, Header, Kind, Tail
from services.segments.pack import Block, Prefix, pack
from services.segments.unpack import chunk_digest


def resealed(segment: bytes) -> bytes:
    """With a footer digest that is right again: only the rules can refuse it."""
    body = segment[: -layout.DIGEST_BYTES]
    return body + blake3(body).digest()


def assembled(
    header: Header, records: Sequence[bytes], fingerprint: Fingerprint
) -> bytes:
    """A segment of these parts, with a footer that fits them."""
    body = header.pack() + b"".join(records)
    table, first = b"", 1
    for ordinal, record in enumerate(records, 1):
        head = ChunkHead.unpack(record[:32])
        at = {Kind.BASE: first, Kind.OPAQUE: ordinal}.get(header.kind)
        if at is None:
            at = struct.unpack_from("<I", record, 32)[0]
        table += layout.TABLE_ENTRY.pack(len(record), at)
        first += head.pages
    raw_bytes = sum(ChunkHead.unpack(record[:32]).raw_bytes for record in records)
    foot = layout.FOOTER_HEAD.pack(layout.FOOTER_TAG, b"", len(records))
    tail = Tail(len(body), raw_bytes, fingerprint).pack()
    return resealed(body + foot + table + tail)


def record(
    kind: Kind, numbers: Sequence[int], data: bytes, prefix: Prefix | None = None
) -> bytes:
    hashes = hash_pages(data, len(data) // len(numbers)) if numbers else b""
    return pack(kind, Block(numbers, hashes, data), prefix or Prefix(), 3)


def raw_record(
    payload: bytes,
    raw_bytes: int,
    *,
    encoding: Encoding = Encoding.STORED,
    pages: int = 0,
    prefix_pages: int = 0,
    index: bytes = b"",
    data: bytes = b"",
) -> bytes:
    """A chunk whose head says what it is told to."""
    head = ChunkHead(encoding, pages, prefix_pages, raw_bytes, len(payload))
    digest = chunk_digest(head, index, data or payload)
    head = ChunkHead(encoding, pages, prefix_pages, raw_bytes, len(payload), digest)
    return head.pack() + index + payload
