"""Ports behind a switch: at one call, the one that was named, something goes wrong.

Whatever coroutine a port has is a call, so methods that are added later are as well.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from redis.exceptions import ConnectionError as RedisConnectionError

from services.chassis.errors import Reason, ServiceError

T = TypeVar("T")


class Fault(StrEnum):
    """What happens to a call."""

    BEFORE = "before"  # refused, nothing was done
    AFTER = "after"  # done, and the answer is lost
    SLOW = "slow"  # done, but by the time of the answer the caller has gone
    TORN = "torn"  # half of what was read arrives; else as AFTER


class Faults:
    """Counts calls from `arm` on, and strikes at one of them."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.held = asyncio.Event()
        self.release = asyncio.Event()
        self._at = 0
        self._fault = Fault.BEFORE

    def arm(self, at: int, fault: Fault) -> None:
        """The call of this number from now on, from 1; 0: none."""
        self.calls.clear()
        self.held.clear()
        self.release.clear()
        self._at, self._fault = at, fault

    @property
    def struck(self) -> bool:
        return 0 < self._at <= len(self.calls)

    def next(self, name: str) -> Fault | None:
        """What happens to this call."""
        self.calls.append(name)
        return self._fault if len(self.calls) == self._at else None

    async def around(
        self,
        name: str,
        call: Callable[[], Awaitable[T]],
        error: Callable[[str], Exception],
    ) -> T:
        fault = self.next(name)
        if fault is Fault.BEFORE:
            raise error(name)
        answer = await call()
        if fault is Fault.SLOW:
            self.held.set()
            await self.release.wait()
        if fault is Fault.TORN and isinstance(answer, bytes) and "read" in name:
            return answer[: len(answer) // 2]  # type: ignore[return-value]
        if fault in (Fault.AFTER, Fault.TORN):
            raise error(name)
        return answer


class FaultyPort:
    """Stands for a BlobStore or a Catalog."""

    def __init__(self, port: Any, faults: Faults, scratch: Path) -> None:
        self._port = port
        self._faults = faults
        self._torn = scratch / "torn"

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._port, name)
        if not inspect.iscoroutinefunction(found):
            return found

        async def call(*args: Any, **kwargs: Any) -> Any:
            work = partial(found, *args, **kwargs)
            return await self._faults.around(name, work, unavailable)

        return call

    @asynccontextmanager
    async def local(self, key: str) -> AsyncIterator[Path]:
        """Opened, then lost or cut short."""
        fault = self._faults.next("local")
        if fault is Fault.BEFORE:
            raise unavailable("local")
        async with self._port.local(key) as path:
            if fault is Fault.SLOW:
                self._faults.held.set()
                await self._faults.release.wait()
            if fault is Fault.AFTER:
                raise unavailable("local")
            if fault is not Fault.TORN:
                yield path
                return
            data = path.read_bytes()
            self._torn.write_bytes(data[: len(data) // 2])
            yield self._torn


def fault_commands(redis: Any, faults: Faults) -> None:
    """Has each command of this client be a call."""
    real = redis.execute_command

    async def execute(*words: Any, **options: Any) -> Any:
        work = partial(real, *words, **options)
        return await faults.around(f"redis {words[0]}", work, RedisConnectionError)

    redis.execute_command = execute


def unavailable(name: str) -> ServiceError:
    return ServiceError(Reason.STORE_UNAVAILABLE, f"cannot {name}: told to fail")
