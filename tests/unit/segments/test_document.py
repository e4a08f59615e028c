"""A second reader, written from docs/segment-format.md and nothing else."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest
import zstandard
from blake3 import blake3

from services.segments import layout
from services.segments.encode import opaque_encoder
from services.segments.fingerprint import ZERO
from tests.support import golden_segments, segments

DOCUMENT = Path(__file__).parents[3] / "docs" / "segment-format.md"
PAGES = golden_segments.chains()


def short_hash(data: bytes) -> bytes:
    return blake3(data).digest(length=16)


def fingerprint(pages: dict[int, bytes]) -> bytes:
    sums = [0, 0]
    for number, page in pages.items():
        for lane, value in enumerate(struct.unpack("<QQ", short_hash(page))):
            sums[lane] += value * (2 * number + 1)
    return struct.pack("<QQ", *(each % 2**64 for each in sums))


def apply(
    segment: bytes, pages: dict[int, bytes], from_deltas: dict[int, bytes]
) -> dict[int, bytes]:
    """The database after the segment; notes what a delta holds in `from_deltas`."""
    assert segment[:8] == bytes.fromhex("89 54 4B 53 45 47 0D 0A")
    version, kind, _, page_size, page_count, held, parent_count, _ = struct.unpack(
        "<HBBIIIII", segment[8:32]
    )
    assert (1, segment[48:64]) == (version, short_hash(segment[:48]))
    older = dict(from_deltas)
    if kind == 2:
        assert segment[32:48] == fingerprint(pages)
        assert parent_count == len(pages)
    after = {n: page for n, page in pages.items() if n <= page_count}
    position, number, seen, table = 64, 0, 0, b""
    while segment[position] == 1:
        begin = position
        encoding, n, m, _, size, payload_size = struct.unpack(
            "<BHHHII", segment[position + 1 : position + 16]
        )
        index_size = 16 * n + (4 * n + 4 * m if kind == 2 else 0)
        index = segment[position + 32 : position + 32 + index_size]
        position += 32 + index_size + payload_size
        payload = segment[position - payload_size : position]
        numbers = list(range(number + 1, number + n + 1))
        prefix: tuple[int, ...] = ()
        if kind == 2:
            numbers = list(struct.unpack(f"<{n}I", index[: 4 * n]))
            prefix = struct.unpack(f"<{m}I", index[20 * n :])
        number = numbers[-1]
        data = expand(encoding, payload, b"".join(older[p] for p in prefix))
        assert size == len(data) == n * page_size
        wanted = segment[begin + 16 : begin + 32]
        assert wanted == short_hash(segment[begin : begin + 16] + index + data)
        for at, each in enumerate(numbers):
            after[each] = data[at * page_size : (at + 1) * page_size]
            start = 16 * at + (4 * n if kind == 2 else 0)
            assert index[start : start + 16] == short_hash(after[each])
            if kind == 2:
                from_deltas[each] = after[each]
        table += struct.pack("<II", position - begin, numbers[0])
        seen += n
    check_end(segment, position, table, seen * page_size, fingerprint(after))
    assert (held, page_count) == (seen, len(after))
    return after


def expand(encoding: int, payload: bytes, prefix: bytes) -> bytes:
    if encoding == 0:
        return payload
    older = zstandard.ZstdCompressionDict(
        prefix, dict_type=zstandard.DICT_TYPE_RAWCONTENT
    )
    return zstandard.ZstdDecompressor(
        dict_data=older if encoding == 2 else None
    ).decompress(payload)


def check_end(
    segment: bytes, position: int, table: bytes, size: int, last: bytes
) -> None:
    footer = struct.pack("<BxxxI", 255, len(table) // 8) + table
    tail = struct.pack("<QQ", position, size) + last
    assert segment[position:-32] == footer + tail
    assert segment[-32:] == blake3(segment[:-32]).digest()


@pytest.mark.parametrize("name", PAGES)
def test_the_page_says_all_that_a_reader_needs(name: str) -> None:
    """Base, deltas with prefix, growth, shrinking, stored chunks: read by the page."""
    chain, result = PAGES[name]
    pages: dict[int, bytes] = {}
    from_deltas: dict[int, bytes] = {}
    for segment in chain:
        pages = apply(segment, pages, from_deltas)

    assert result == b"".join(pages[number] for number in sorted(pages))


def test_it_says_what_opaque_bytes_look_like() -> None:
    """One chunk a MiB, no index, and the hash of all in place of a fingerprint."""
    body = golden_segments.opaque()["opaque-short"]
    segment = b"".join(opaque_encoder([body]))

    encoding, size, payload_size = struct.unpack("<B6xII", segment[65:80])
    found = expand(encoding, segment[96 : 96 + payload_size], b"")

    table = struct.pack("<II", 32 + payload_size, 1)
    assert (body, len(body)) == (found, size)
    check_end(segment, 96 + payload_size, table, size, short_hash(body))


def test_its_tables_add_up_to_the_code() -> None:
    """Offsets and sizes in the tables are those of the structures."""
    rows = re.findall(r"^\| (\d+) \| (\d+) \|", DOCUMENT.read_text(), re.MULTILINE)
    tables: list[int] = []
    for offset, size in ((int(row[0]), int(row[1])) for row in rows):
        if offset == 0:
            tables.append(0)
        assert tables[-1] == offset
        tables[-1] += size

    sizes = [part.size for part in (layout.HEADER, layout.CHUNK_HEAD)]
    assert [*sizes, layout.FOOTER_HEAD.size, layout.TAIL.size] == tables


def test_its_limits_are_those_of_the_code() -> None:
    """The numbers in the words."""
    words = DOCUMENT.read_text()

    assert f"{layout.CHUNK_BYTES_MAX:,}" in words
    assert f"{layout.PAGE_COUNT_MAX:,}" in words
    assert f"**base**: {layout.BASE_CHUNK_PAGES_MAX} pages" in words
    assert f"up to {layout.DELTA_CHUNK_PAGES_MAX} pages" in words
    assert f"at most {layout.PREFIX_PAGES_MAX} pages and 1 MiB" in words
    assert 1 << 20 == layout.PREFIX_BYTES_MAX
    assert segments.fingerprint([]) == ZERO
