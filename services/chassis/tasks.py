"""Ending what runs beside a server."""

from __future__ import annotations

import asyncio
from typing import Any, Final

_AGAIN_S: Final = 0.5


async def ended(*tasks: asyncio.Task[Any]) -> None:
    """Cancels the tasks until they have ended; how they did is nobody's business.

    Once may not do: a `wait_for` of Python 3.11, and the client of Redis has one,
    swallows a cancellation that comes in the moment in which its call returns.
    """
    running = set(tasks)
    while running:
        for task in running:
            task.cancel()
        _, running = await asyncio.wait(running, timeout=_AGAIN_S)
    await asyncio.gather(*tasks, return_exceptions=True)
