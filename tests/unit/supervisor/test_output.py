"""Output is kept to a bound, and followed."""

import asyncio

from services.supervisor.output import KEPT_BYTES_MAX, OutputBuffer


async def test_the_tail_is_the_end() -> None:
    """The last bytes asked for come, at their true offset."""
    buffer = OutputBuffer()
    buffer.append(b"hello ")
    buffer.append(b"world")

    pieces = [piece async for piece in buffer.tail(7, follow=False)]

    assert b"o world"[-7:] == b"".join(piece.data for piece in pieces)
    assert 4 == pieces[0].offset


async def test_dropped_bytes_are_a_gap() -> None:
    """What was lost shows as a jump in the offset."""
    buffer = OutputBuffer()
    buffer.append(b"a")
    buffer.append(b"b", dropped_bytes=10)

    pieces = [piece async for piece in buffer.tail(0, follow=False)]

    assert [(0, b"a"), (11, b"b")] == [(piece.offset, piece.data) for piece in pieces]


async def test_memory_is_bounded() -> None:
    """A program that prints for ever costs what is kept, no more."""
    buffer = OutputBuffer()
    for _ in range(40):
        buffer.append(bytes(50_000))

    kept = sum([len(piece.data) async for piece in buffer.tail(0, follow=False)])

    assert kept <= KEPT_BYTES_MAX
    assert 2_000_000 == buffer.end


async def test_a_follower_sees_new_output_and_the_end() -> None:
    """Following ends when the run ends, with everything it printed."""
    buffer = OutputBuffer()
    buffer.append(b"old ")

    async def follow() -> bytes:
        return b"".join([piece.data async for piece in buffer.tail(0, follow=True)])

    follower = asyncio.create_task(follow())
    await asyncio.sleep(0)
    buffer.append(b"new")
    buffer.close()

    assert b"old new" == await asyncio.wait_for(follower, 5)
