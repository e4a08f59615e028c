"""What goes into a segment comes out of it, however it is cut up on the way."""

from __future__ import annotations

import io
import random
from pathlib import Path

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from services.segments import layout
from services.segments.encode import SegmentEncoder, opaque_encoder, write_segment
from services.segments.layout import Header, Kind
from services.segments.pack import blocks
from services.segments.read import (
    read_opaque,
    read_pages,
    verify,
    verify_parts,
)
from tests.support import segments

PAGE_SIZES = [512 << step for step in range(8)]


@pytest.mark.parametrize("page_size", PAGE_SIZES)
@pytest.mark.parametrize("page_count", [1, 63, 64, 65, 200])
def test_a_base_gives_back_every_page(page_size: int, page_count: int) -> None:
    """All page sizes of SQLite, at the borders of a chunk and beyond."""
    pages = segments.image(page_count, page_size)

    read = list(read_pages([segments.base(pages)]))

    assert list(enumerate(pages, 1)) == read


@pytest.mark.parametrize("page_size", [512, 4096, 65_536])
def test_a_delta_gives_back_what_changed(page_size: int) -> None:
    """Only the changed and the added pages, by their numbers."""
    old = segments.image(300, page_size)
    new = [
        *segments.edited(old, [1, 7, 299], b"new"),
        *segments.image(5, page_size, seed=1),
    ]

    read = list(read_pages([segments.delta(old, new)]))

    assert segments.changes(old, new) == read
    assert [1, 7, 299, 301, 302, 303, 304, 305] == [number for number, _ in read]


@given(st.integers(1, 5000))
def test_pieces_of_any_size_read_the_same(size: int) -> None:
    """gRPC cuts the bytes anywhere; no cut may matter."""
    pages = segments.image(150)
    segment = segments.base(pages)

    read = read_pages(segments.pieces(segment, size))

    assert list(enumerate(pages, 1)) == list(read)


def test_threads_write_the_same_bytes() -> None:
    """Packing in threads is only faster: order and content stay."""
    pages = segments.image(1000)

    assert segments.base(pages) == segments.base(pages, threads=2)


@settings(max_examples=30)
@given(st.binary(max_size=5000), st.integers(1, 999), st.booleans())
def test_opaque_bytes_come_back(body: bytes, size: int, repeat: bool) -> None:
    """Any bytes, the empty ones too, in pieces of any size both ways."""
    body = body * 500 if repeat else body
    encoder = opaque_encoder(segments.pieces(body, 100_000))
    segment = b"".join(encoder)

    parts = segments.pieces(segment, size * 1000)

    assert body == b"".join(read_opaque(parts))
    assert len(body) == encoder.info.raw_bytes
    assert blake3(body).digest(length=16) == bytes(encoder.info.fingerprint)


def test_writer_and_reader_describe_it_alike(tmp_path: Path) -> None:
    """What the writer says it wrote is what verifying finds."""
    pages = segments.image(100, 4096)
    header = Header.base(4096, 100)
    grouped = blocks(header, enumerate(pages, 1))
    encoder = SegmentEncoder(header, grouped)
    path = tmp_path / "segment"
    with path.open("wb") as file:
        written = write_segment(file, encoder)

    found = verify(path)

    assert written == found
    assert path.stat().st_size == found.size_bytes
    assert blake3(path.read_bytes()).digest() == found.blake3
    assert segments.fingerprint(pages) == found.fingerprint
    assert (Kind.BASE, 100, 2, False, 100 * 4096) == (
        found.kind,
        found.header.pages,
        found.chunks,
        found.prefixed,
        found.raw_bytes,
    )


def test_a_delta_may_only_shrink() -> None:
    """Fewer pages and none of them changed is still a delta."""
    old = segments.image(10)

    info = verify_parts([segments.delta(old, old[:4])])

    assert (0, 4, 10) == (
        info.header.pages,
        info.header.page_count,
        info.header.parent_page_count,
    )
    assert segments.fingerprint(old[:4]) == info.fingerprint


def test_noise_is_stored_not_blown_up() -> None:
    """Compression that does not pay is left out, so no chunk outgrows its pages."""
    noise = random.Random(1).randbytes(4 << 20)

    segment = b"".join(opaque_encoder([noise]))

    assert len(noise) < len(segment) < len(noise) + 1000
    assert noise == b"".join(read_opaque([segment]))


def test_a_chunk_unpacks_to_a_mebibyte_at_most() -> None:
    """Page size decides how many pages share a chunk: memory stays bounded."""
    most = {size: Header.base(size, 1).chunk_pages_max * size for size in PAGE_SIZES}

    assert layout.CHUNK_BYTES_MAX == max(most.values())


class TestMisuse:
    """A writer that breaks its word is stopped before the footer."""

    def test_pages_out_of_order(self) -> None:
        header = Header.base(512, 2)
        grouped = blocks(header, [(2, bytes(512)), (1, bytes(512))])

        with pytest.raises(ValueError, match="out of order"):
            list(SegmentEncoder(header, grouped))

    def test_fewer_pages_than_announced(self) -> None:
        header = Header.base(512, 2)
        grouped = blocks(header, [(1, bytes(512))])

        with pytest.raises(ValueError, match="of 2 pages after 1"):
            list(SegmentEncoder(header, grouped))

    def test_a_page_of_another_size(self) -> None:
        header = Header.base(512, 1)
        grouped = blocks(header, [(1, bytes(1024))])

        with pytest.raises(ValueError, match="another size"):
            list(SegmentEncoder(header, grouped))

    def test_pages_that_changed_on_the_way(self) -> None:
        pages = segments.image(3)
        header = Header.base(512, 3)
        grouped = blocks(header, enumerate(pages, 1))
        other = segments.fingerprint(segments.image(3, seed=1))

        with pytest.raises(ValueError, match="changed on the way"):
            list(SegmentEncoder(header, grouped, other))

    def test_a_delta_without_its_fingerprint(self) -> None:
        header = Header(Kind.DELTA, 512, 1, 1, 1)

        with pytest.raises(ValueError, match="without the fingerprint"):
            SegmentEncoder(header, [])

    def test_info_before_the_end(self) -> None:
        encoder = opaque_encoder([b"x"])

        with pytest.raises(ValueError, match="not written yet"):
            _ = encoder.info

    def test_writing_to_a_file_needs_no_seek(self) -> None:
        """Segments are streamed: a file object that only writes is enough."""
        file = io.BytesIO()

        info = write_segment(file, opaque_encoder([b"x" * 10]))

        assert info.size_bytes == len(file.getvalue())
