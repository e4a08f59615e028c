"""Counts the calls in progress and lets none in once the server is stopping.

Our own count, because grpc.aio's stop neither waits for handlers that were cut off
nor ends streams that last for ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Final, TypeVar

from services.chassis.errors import Reason, ServiceError
from services.chassis.telemetry import CALLS_IN_FLIGHT

T = TypeVar("T")

# 100 streams and as many short calls are a busy service; ten times that is a flood.
CALLS_MAX: Final = 2000


class Gate:
    """Open while the server serves; then only the calls already in go on."""

    def __init__(self, calls_max: int = CALLS_MAX) -> None:
        self.in_flight = 0
        self._calls_max = calls_max
        self._stopping = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def closed(self) -> bool:
        return self._stopping.is_set()

    def enter(self) -> None:
        """Lets a call in, or refuses it; each entry needs one `leave`."""
        if self.closed:
            raise shutting_down()
        if self.in_flight >= self._calls_max:
            raise ServiceError(
                Reason.TOO_MANY_CALLS,
                "cannot take another call now: wait and try again",
                calls_max=self._calls_max,
            )
        self.in_flight += 1
        CALLS_IN_FLIGHT.set(self.in_flight)
        self._idle.clear()

    def leave(self) -> None:
        self.in_flight -= 1
        CALLS_IN_FLIGHT.set(self.in_flight)
        if self.in_flight == 0:
            self._idle.set()

    def close(self) -> None:
        """From now on no call gets in, and watches are told to end."""
        self._stopping.set()

    async def wait_idle(self, limit_s: float) -> bool:
        """Whether all calls ended within the limit."""
        try:
            async with asyncio.timeout(limit_s):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    async def until_closed(self, watch: Awaitable[T]) -> T:
        """Runs a stream that would last for ever; ends it when the gate closes."""
        running = asyncio.ensure_future(watch)
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if running.done():
                return running.result()
            raise shutting_down()
        finally:
            # Also the way out when the caller is gone: neither task outlives the call.
            running.cancel()
            stopping.cancel()
            await asyncio.gather(running, stopping, return_exceptions=True)


def shutting_down() -> ServiceError:
    return ServiceError(
        Reason.SHUTTING_DOWN, "cannot take the call, this server is stopping: try again"
    )
