"""Tasks beside a server end with it."""

from __future__ import annotations

import asyncio

from services.chassis.tasks import ended


async def test_one_that_swallows_its_cancellation() -> None:
    """What went on in spite of a cancellation gets another one."""
    swallowed = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            swallowed.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    async with asyncio.timeout(10):
        await ended(task)

    assert swallowed.is_set()
    assert task.cancelled()


async def test_one_that_failed() -> None:
    """A failure that was told before is not raised again."""

    async def fail() -> None:
        raise ValueError

    task = asyncio.create_task(fail())
    await asyncio.wait({task})

    await ended(task)
