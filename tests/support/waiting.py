"""Waiting for a condition with a deadline, in place of sleeping and hoping."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

T = TypeVar("T")

# Short enough not to slow a suite down, long enough to leave the processor to others.
_LOOK_EVERY_S = 0.01


@overload
async def wait_until(
    condition: Callable[[], Awaitable[T]], *, what: str = "", limit_s: float = 5.0
) -> T: ...


@overload
async def wait_until(
    condition: Callable[[], T], *, what: str = "", limit_s: float = 5.0
) -> T: ...


async def wait_until(
    condition: Callable[[], Any], *, what: str = "", limit_s: float = 5.0
) -> Any:
    """The first true value of the condition, sync or async; fails past the limit."""
    deadline = time.monotonic() + limit_s
    while True:
        found = condition()
        value = await found if inspect.isawaitable(found) else found
        if value:
            return value
        if time.monotonic() > deadline:
            raise _too_late(what or _source(condition), limit_s)
        await asyncio.sleep(_LOOK_EVERY_S)


def wait_until_sync(
    condition: Callable[[], T], *, what: str = "", limit_s: float = 5.0
) -> T:
    """The same for tests without a loop."""
    deadline = time.monotonic() + limit_s
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise _too_late(what or _source(condition), limit_s)
        time.sleep(_LOOK_EVERY_S)
    return value


def _source(condition: Callable[..., object]) -> str:
    try:
        return inspect.getsource(condition).strip()
    except (OSError, TypeError):
        return repr(condition)


def _too_late(what: str, limit_s: float) -> AssertionError:
    return AssertionError(f"not within {limit_s:g} s: {what}")
