"""Makes pages of one chunk: bounded decompression, then proof by digest.

Pure and safe in several threads at once; nearly all of it runs without the GIL.
"""

from __future__ import annotations

import threading
from typing import Final

import zstandard
from blake3 import blake3

from services.segments.decode import Chunk
from services.segments.fingerprint import hash_pages
from services.segments.layout import (
    CHUNK_DIGEST_BYTES,
    CHUNK_PLAIN_BYTES,
    ChunkHead,
    Encoding,
    damaged,
)


class _Local(threading.local):
    """A decompressor a thread: they are not safe to share, and costly to make."""

    def __init__(self) -> None:
        self.plain = zstandard.ZstdDecompressor()


_local: Final = _Local()


def chunk_digest(head: ChunkHead, index: bytes, raw: bytes | memoryview) -> bytes:
    digest = blake3(head.pack()[:CHUNK_PLAIN_BYTES])
    digest.update(index)
    digest.update(raw)
    return digest.digest(length=CHUNK_DIGEST_BYTES)


def unpack(chunk: Chunk, prefix: bytes = b"", *, each_page: bool = False) -> bytes:
    """The chunk's data, proven to be what was packed.

    `prefix` is the data of `chunk.prefix`, in that order. The digest binds data and
    page hashes as one writer saw them; `each_page` proves each hash as well, as one
    must for bytes whose writer is not trusted.
    """
    raw = _expand(chunk, prefix)
    if chunk_digest(chunk.head, chunk.index, raw) != chunk.head.digest:
        raise damaged("a chunk fails its digest", first=_first(chunk))
    if each_page and chunk.numbers:
        page_size = len(raw) // len(chunk.numbers)
        if hash_pages(raw, page_size) != chunk.hashes:
            raise damaged("a page fails its hash", first=_first(chunk))
    return raw


def _expand(chunk: Chunk, prefix: bytes) -> bytes:
    head = chunk.head
    if head.encoding is Encoding.STORED:
        return chunk.payload
    try:
        # zstd allocates what the frame claims: believe it only if it claims our size.
        frame = zstandard.get_frame_parameters(chunk.payload)
        if frame.content_size != head.raw_bytes:
            raise damaged("a chunk unpacks to another size", first=_first(chunk))
        raw = _decompressor(head, prefix).decompress(
            chunk.payload, allow_extra_data=False
        )
    except zstandard.ZstdError as error:
        raise damaged("a chunk does not unpack", first=_first(chunk)) from error
    if len(raw) != head.raw_bytes:
        raise damaged("a chunk unpacks to another size", first=_first(chunk))
    return raw


def _decompressor(head: ChunkHead, prefix: bytes) -> zstandard.ZstdDecompressor:
    if head.encoding is Encoding.ZSTD:
        return _local.plain
    older = zstandard.ZstdCompressionDict(
        prefix, dict_type=zstandard.DICT_TYPE_RAWCONTENT
    )
    return zstandard.ZstdDecompressor(dict_data=older)


def _first(chunk: Chunk) -> int | None:
    return chunk.numbers[0] if chunk.numbers else None
