"""Hints on their way to watchers: bounded, each agent once."""

from __future__ import annotations

import asyncio

import pytest

from services.chassis.errors import Reason, ServiceError
from services.registry.hints import HINTS_MAX, MISSED, Nudges, Watcher, Watchers


async def test_hints_name_each_agent_once_in_order():
    """Repeats of what is still unread are no news."""
    watcher = Watcher("t")
    for agent in ("a", "b", "a"):
        watcher.tell(agent)

    assert ["a", "b"] == [await anext(watcher), await anext(watcher)]


async def test_hints_wake_a_watcher_that_waits():
    """A hint that comes later is read when it comes."""
    watcher = Watcher("t")
    waiting = asyncio.create_task(anext(watcher))
    await asyncio.sleep(0)
    assert not waiting.done()

    watcher.tell("a")

    assert "a" == await asyncio.wait_for(waiting, 5)


async def test_a_loss_stands_for_all_before_it():
    """Listing again names them."""
    watcher = Watcher("t")
    watcher.tell("a")
    watcher.tell(MISSED)
    watcher.tell("b")

    assert [MISSED, "b"] == [await anext(watcher), await anext(watcher)]


async def test_too_many_unread_end_the_watch():
    """As many as the limit are kept; one more drops the watcher."""
    patient, slow = Watcher("t"), Watcher("t")
    for index in range(HINTS_MAX):
        patient.tell(str(index))
        slow.tell(str(index))
    slow.tell("one more")

    assert "0" == await anext(patient)
    with pytest.raises(ServiceError) as refused:
        await anext(slow)
    assert Reason.WATCHER_TOO_SLOW is refused.value.reason


async def test_hints_reach_the_watchers_of_the_town_while_they_watch():
    """No other town's, and none that has gone."""
    watchers = Watchers()
    with watchers.watching("t") as one, watchers.watching("t") as two:
        with watchers.watching("t") as gone, watchers.watching("other") as other:
            watchers.missed()
        watchers.tell("t", "a")

        for watcher in (one, two):
            assert [MISSED, "a"] == [await anext(watcher), await anext(watcher)]
        assert [MISSED] * 2 == [await anext(gone), await anext(other)]
        assert not gone._hints


def test_nudges_reach_those_who_wait_for_the_town():
    """No other town's, and none that has gone; after a loss all are nudged."""
    made = Nudges()
    with made.of("t") as one, made.of("t") as two, made.of("other") as other:
        with made.of("t") as gone:
            pass
        made.tell("t")

        assert [True, True, False, False] == [
            event.is_set() for event in (one, two, other, gone)
        ]
        made.tell_all()
        assert other.is_set()
    assert not made._by_town
