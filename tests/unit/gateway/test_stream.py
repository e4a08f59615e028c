"""Bodies cut into frames."""

from __future__ import annotations

from collections.abc import AsyncIterator

from hypothesis import given, settings
from hypothesis import strategies as st

from services.gateway.stream import CHUNK_BYTES, in_chunks


async def body(sizes: list[int]) -> AsyncIterator[bytes]:
    for number, size in enumerate(sizes):
        yield bytes([number % 256]) * size


SIZES = st.sampled_from([0, 1, 1000, CHUNK_BYTES - 1, CHUNK_BYTES * 2 + 1])


@settings(max_examples=30, deadline=None)
@given(st.lists(SIZES, max_size=4))
async def test_any_pieces_become_full_chunks(sizes: list[int]):
    """All but the last are as large as a frame may be; none is empty."""
    whole = b"".join([piece async for piece in body(sizes)])

    chunks = [chunk async for chunk in in_chunks(body(sizes))]

    assert whole == b"".join(chunks)
    assert {CHUNK_BYTES} >= {len(chunk) for chunk in chunks[:-1]}
    assert all(chunks)
    assert all(len(chunk) <= CHUNK_BYTES for chunk in chunks)
