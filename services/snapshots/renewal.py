"""Renews a claim with a time limit while somebody is at work under it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

from services.chassis.errors import ServiceError
from services.snapshots.disk_work import to_the_end


@asynccontextmanager
async def renewing(
    renew: Callable[[], Awaitable[object]], every_s: float
) -> AsyncIterator[None]:
    """Calls `renew` again and again; what fails is tried the next time."""
    over = asyncio.Event()

    async def run() -> None:
        while not over.is_set():
            try:
                async with asyncio.timeout(every_s):
                    await over.wait()
            except TimeoutError:
                with suppress(ServiceError):
                    await renew()

    task = asyncio.create_task(run(), name="renew")
    try:
        yield
    finally:
        # Told, not cancelled: a call to Redis may swallow that.
        over.set()
        await to_the_end(task)
