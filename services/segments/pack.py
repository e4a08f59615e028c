"""Makes one chunk of some pages: hashes, compression, digest.

Pure and safe in several threads at once.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import zstandard

from services.segments.fingerprint import hash_pages
from services.segments.layout import (
    CHUNK_BYTES_MAX,
    ChunkHead,
    Encoding,
    Header,
    Kind,
)
from services.segments.unpack import chunk_digest

# Reaches over a full chunk and a full prefix: 1 MiB each.
_PREFIX_WINDOW_LOG: Final = 21


@dataclass(frozen=True, slots=True)
class Block:
    """Some pages in order, with their hashes: what becomes one chunk."""

    numbers: Sequence[int]
    hashes: bytes
    data: bytes


@dataclass(frozen=True, slots=True)
class Prefix:
    """Older pages of the chain, in the order in which they form the dictionary."""

    numbers: Sequence[int] = ()
    data: bytes = b""


class _Local(threading.local):
    def __init__(self) -> None:
        self.by_level: dict[int, zstandard.ZstdCompressor] = {}

    def compressor(self, level: int) -> zstandard.ZstdCompressor:
        if level not in self.by_level:
            self.by_level[level] = zstandard.ZstdCompressor(level=level)
        return self.by_level[level]


_local: Final = _Local()


def blocks(header: Header, pages: Iterable[tuple[int, bytes]]) -> Iterator[Block]:
    """Groups single pages, in order, into blocks of the size of chunks."""
    numbers: list[int] = []
    datas: list[bytes] = []
    for number, data in pages:
        numbers.append(number)
        datas.append(data)
        if len(numbers) == header.chunk_pages_max:
            yield _block(numbers, datas, header.page_size)
            numbers, datas = [], []
    if numbers:
        yield _block(numbers, datas, header.page_size)


def _block(numbers: list[int], datas: list[bytes], page_size: int) -> Block:
    data = b"".join(datas)
    return Block(tuple(numbers), hash_pages(data, page_size), data)


def opaque_blocks(parts: Iterable[bytes]) -> Iterator[Block]:
    """Bytes in pieces of any size as the blocks of an opaque segment."""
    buffer = bytearray()
    for part in parts:
        buffer += part
        while len(buffer) >= CHUNK_BYTES_MAX:
            yield Block((), b"", bytes(buffer[:CHUNK_BYTES_MAX]))
            del buffer[:CHUNK_BYTES_MAX]
    if buffer:
        yield Block((), b"", bytes(buffer))


def pack(kind: Kind, block: Block, prefix: Prefix, level: int) -> bytes:
    """One chunk as it stands in the file. Pure; safe in several threads."""
    index = block.hashes
    if kind is Kind.DELTA:
        index = (
            struct.pack(f"<{len(block.numbers)}I", *block.numbers)
            + block.hashes
            + struct.pack(f"<{len(prefix.numbers)}I", *prefix.numbers)
        )
    encoding = Encoding.ZSTD_PREFIX if prefix.numbers else Encoding.ZSTD
    payload = _compressor(prefix, level).compress(block.data)
    if len(payload) >= len(block.data):
        if prefix.numbers:
            return pack(kind, block, Prefix(), level)
        encoding, payload = Encoding.STORED, block.data
    head = ChunkHead(
        encoding,
        len(block.numbers),
        len(prefix.numbers),
        len(block.data),
        len(payload),
    )
    head = replace(head, digest=chunk_digest(head, index, block.data))
    return b"".join((head.pack(), index, payload))


def _compressor(prefix: Prefix, level: int) -> zstandard.ZstdCompressor:
    if not prefix.numbers:
        return _local.compressor(level)
    return zstandard.ZstdCompressor(
        compression_params=zstandard.ZstdCompressionParameters.from_level(
            level, window_log=_PREFIX_WINDOW_LOG
        ),
        dict_data=zstandard.ZstdCompressionDict(
            prefix.data, dict_type=zstandard.DICT_TYPE_RAWCONTENT
        ),
    )
