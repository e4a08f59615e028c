"""A stream that the event loop receives, worked on by a thread while it comes in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Final, TypeVar

T = TypeVar("T")
R = TypeVar("R")

# Keeps both sides busy; with chunks of 1 MiB so many MiB wait at most.
ITEMS_AHEAD: Final = 4


async def work_ahead(
    stream: AsyncIterator[T],
    work: Callable[[Iterator[T]], R],
    *,
    ahead: int = ITEMS_AHEAD,
) -> R:
    """What `work` makes, in a thread, of the items of the stream.

    What breaks the stream is raised to `work` where it asks for the next item, as is
    a cancellation of the caller; this returns when the thread has ended, so nobody
    meets it at work later.
    """
    loop = asyncio.get_running_loop()
    items = asyncio.Queue[T](ahead)

    async def receive() -> None:
        async for item in stream:
            await items.put(item)

    receiving = asyncio.create_task(receive(), name="receive ahead")

    async def take() -> tuple[T, ...]:
        """The next item; none at the end."""
        waiting = asyncio.ensure_future(items.get())
        await asyncio.wait({waiting, receiving}, return_when=asyncio.FIRST_COMPLETED)
        if waiting.done():
            return (waiting.result(),)
        waiting.cancel()
        receiving.result()
        return ()

    def received() -> Iterator[T]:
        while found := asyncio.run_coroutine_threadsafe(take(), loop).result():
            yield from found

    working = asyncio.create_task(asyncio.to_thread(work, received()))
    try:
        return await asyncio.shield(working)
    finally:
        receiving.cancel()
        await asyncio.wait({receiving, working})
        for task in (receiving, working):
            if not task.cancelled():
                task.exception()  # who still listens has it already
