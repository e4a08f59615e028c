"""An upload whose frames come when the machine likes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

from services.chassis.errors import ServiceError
from services.snapshots.generations import Snapshot
from services.snapshots.staging import PausedUpload
from services.snapshots.upload import Frame
from tests.faults.snapshots.machine_model import Made

Upload = Callable[[AsyncIterator[Frame]], Coroutine[Any, Any, Snapshot | PausedUpload]]


class Stream:
    """All frames but the trailer are given at once."""

    def __init__(self, made: Made, on_head: bool, upload: Upload) -> None:
        self.made = made
        # Whether its parent was the head when its header was read.
        self.on_head = on_head
        self._queue: asyncio.Queue[Frame | None] = asyncio.Queue()
        *first, self._last = made.save.frames()
        for frame in first:
            self._queue.put_nowait(frame)
        self.task = asyncio.get_running_loop().create_task(upload(self._frames()))

    async def waiting(self) -> None:
        """Returns when all is taken, or it was refused before."""
        while not self.task.done() and not self._queue.empty():
            await asyncio.sleep(0)

    def end(self) -> None:
        """The trailer."""
        self._queue.put_nowait(self._last)

    def cut(self) -> None:
        """No trailer."""
        self._queue.put_nowait(None)

    async def outcome(self) -> Snapshot | PausedUpload | ServiceError:
        try:
            return await self.task
        except ServiceError as error:
            return error

    async def kill(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    async def _frames(self) -> AsyncIterator[Frame]:
        while (frame := await self._queue.get()) is not None:
            yield frame
