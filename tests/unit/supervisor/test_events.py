"""Events are numbered, kept, and watched without gap or duplicate."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from services.chassis.clock import SystemClock
from services.chassis.errors import Reason, ServiceError
from services.supervisor.events import (
    BYTES_MAX,
    DATA_BYTES_MAX,
    KEPT_MAX,
    QUEUE_MAX,
    EventLog,
)


@pytest.fixture
def log() -> EventLog:
    return EventLog("boot-1", SystemClock())


async def test_a_watch_gives_kept_events_then_new_ones(log: EventLog) -> None:
    """Nothing is lost or doubled where the kept events end and the new ones begin."""
    log.append("a", "one", {})
    watch = log.watch("", "a")
    first = await anext(watch)
    log.append("b", "elsewhere", {})
    log.append("a", "two", {})

    second = await asyncio.wait_for(anext(watch), 5)

    assert ["one", "two"] == [first.type, second.type]
    await watch.aclose()


async def test_a_token_continues_after_its_event(log: EventLog) -> None:
    """A watcher that comes back with a token sees only what came after it."""
    token = log.token(log.append("a", "one", {}))
    log.append("a", "two", {})

    seen = [event.type for event in log.kept(log.after(token, "a"), "a")]

    assert ["two"] == seen


@pytest.mark.parametrize(
    "token", ["boot-0:1", "boot-1:", "boot-1:-1", "1", "boot-1:x", ":", "²:²"]
)
def test_a_foreign_token_is_refused(log: EventLog, token: str) -> None:
    """A token of another boot says that a restart was missed; no other is ours."""
    with pytest.raises(ServiceError) as refused:
        log.after(token, None)

    assert Reason.RESUME_TOKEN_EXPIRED == refused.value.reason


def test_dropped_events_expire_tokens(log: EventLog) -> None:
    """A gap is said, never silent."""
    token = log.token(log.append("a", "first", {}))
    for _ in range(KEPT_MAX + 1):
        log.append("a", "more", {})

    with pytest.raises(ServiceError) as refused:
        log.after(token, "a")

    assert Reason.RESUME_TOKEN_EXPIRED == refused.value.reason
    assert KEPT_MAX == len(log.kept(0, "a"))


async def test_a_slow_watcher_is_dropped_with_a_reason(log: EventLog) -> None:
    """A watcher that does not read costs bounded memory."""
    log.append("a", "first", {})
    watch = log.watch("", None)
    await anext(watch)
    for _ in range(QUEUE_MAX + 1):
        log.append("a", "more", {})

    with pytest.raises(ServiceError) as refused:
        async for _ in watch:
            pass

    assert Reason.WATCHER_TOO_SLOW == refused.value.reason


def test_huge_data_are_cut(log: EventLog) -> None:
    """One event never fills a message."""
    event = log.append("a", "big", {"output": "x" * DATA_BYTES_MAX})

    assert event.data["truncated"] is True


async def test_large_events_are_bounded_by_their_bytes(log: EventLog) -> None:
    """Neither what is kept nor what waits for a slow watcher grows with their size."""
    log.append("a", "first", {})
    watch = log.watch("", "a")
    await anext(watch)
    for _ in range(2 * BYTES_MAX // 100_000):
        log.append("a", "large", {"text": "x" * 100_000})

    kept = log.kept(0, "a")
    with pytest.raises(ServiceError) as refused:
        await asyncio.wait_for(to_the_end(watch), 5)

    assert BYTES_MAX // 2 < sum(event.size_bytes for event in kept) <= BYTES_MAX
    assert Reason.WATCHER_TOO_SLOW == refused.value.reason


async def to_the_end(watch: AsyncIterator[object]) -> None:
    async for _ in watch:
        pass
