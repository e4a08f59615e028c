"""A stream worked on by a thread: in order, a bounded way ahead, cut off cleanly."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator

import pytest

from services.supervisor.read_ahead import work_ahead
from tests.support.waiting import wait_until


class Numbers:
    """Counts what was asked of it."""

    def __init__(self, count: int, error: Exception | None = None) -> None:
        self.sent = 0
        self._count = count
        self._error = error

    async def stream(self) -> AsyncIterator[int]:
        while self.sent < self._count:
            self.sent += 1
            yield self.sent
        if self._error is not None:
            raise self._error


async def test_everything_arrives_in_order() -> None:
    """The work sees each item of the stream once, and its end."""
    assert list(range(1, 101)) == await work_ahead(Numbers(100).stream(), list)
    assert [] == await work_ahead(Numbers(0).stream(), list)


async def test_a_slow_thread_holds_the_stream_back() -> None:
    """No more waits than was agreed, however long the stream is."""
    numbers, go = Numbers(100), threading.Event()

    def slowly(items: Iterator[int]) -> int:
        go.wait(10)
        return sum(items)

    working = asyncio.create_task(work_ahead(numbers.stream(), slowly, ahead=4))
    await wait_until(lambda: numbers.sent == 5)  # four wait, one is in the door
    for _ in range(10):
        await asyncio.sleep(0)
    assert 5 == numbers.sent
    go.set()
    assert 5050 == await working


async def test_a_broken_stream_breaks_the_work() -> None:
    """The work hears of it after all that came before, and so does the caller."""
    seen = list[int]()

    def note(items: Iterator[int]) -> None:
        seen.extend(items)

    with pytest.raises(OSError, match="cut"):
        await work_ahead(Numbers(3, OSError("cut")).stream(), note)

    assert [1, 2, 3] == seen


async def test_broken_work_ends_the_stream() -> None:
    """Nobody goes on receiving what nobody wants."""
    numbers = Numbers(1_000_000)

    def refuse(items: Iterator[int]) -> None:
        raise ValueError(f"not {next(items)}")

    with pytest.raises(ValueError, match="not 1"):
        await work_ahead(numbers.stream(), refuse)

    assert numbers.sent < 1_000_000
    assert {asyncio.current_task()} == asyncio.all_tasks()


async def test_a_cancelled_caller_leaves_no_thread_at_work() -> None:
    """It is cut off where it waits, and has ended when the caller goes on."""
    ended = threading.Event()

    async def silence() -> AsyncIterator[int]:
        yield 1
        await asyncio.Event().wait()

    waiting = threading.Event()

    def work(items: Iterator[int]) -> None:
        try:
            for _ in items:
                waiting.set()
        finally:
            ended.set()

    working = asyncio.create_task(work_ahead(silence(), work))
    await wait_until(waiting.is_set)
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working

    assert ended.is_set()
