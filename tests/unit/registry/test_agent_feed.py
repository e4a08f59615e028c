"""Watches of one town: what each is told, and what is read for all of them."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import pytest

from services.chassis.errors import Reason, ServiceError
from services.chassis.names import AgentName
from services.registry.agent_feed import Feed, Watches
from services.registry.changes import Changes, Position
from services.registry.hints import Nudges
from tests.fakes.registry_store import MemoryStore
from tests.support.clock import ManualClock
from tests.support.registry_samples import MAYOR, OTHER_SPEC, POLECAT, SPEC
from tests.support.registry_watch import EAGER, Viewer, told
from tests.support.tokens import TOWN
from tests.support.waiting import wait_until

AWAY = ServiceError(Reason.STORE_UNAVAILABLE, "cannot reach Redis: try again", why="x")
# Longer than any test: only a hint makes it look again.
HINTED = replace(EAGER, look_every_s=60.0)


class CountingStore(MemoryStore):
    """Counts readings, and can be made to stand still."""

    def __init__(self) -> None:
        super().__init__(ManualClock())
        self.readings = 0
        self.broken: Exception | None = None

    async def read_changes(self, town: str, after: Position | None = None) -> Changes:
        self.readings += 1
        if self.broken:
            raise self.broken
        return await super().read_changes(town, after)


@pytest.fixture
async def store() -> CountingStore:
    store = CountingStore()
    await store.register_agent(MAYOR, SPEC)
    await store.register_agent(POLECAT, SPEC)
    return store


@pytest.fixture
def watches(store: CountingStore) -> Watches:
    return Watches(store, EAGER)


@pytest.fixture
async def viewer(watches: Watches, store: CountingStore) -> AsyncIterator[Viewer]:
    async with Viewer(watches) as viewer:
        await viewer.caught_up(store)
        yield viewer


async def change(store: MemoryStore, name: AgentName = MAYOR, model: str = "x") -> None:
    await store.register_agent(name, replace(OTHER_SPEC, model=model))


def feed_of(watches: Watches) -> Feed:
    return watches._feeds[TOWN]


async def all_follow(watches: Watches, count: int) -> None:
    """Waits until so many have joined the feed."""
    await wait_until(
        lambda: TOWN in watches._feeds and len(feed_of(watches)._readers) == count
    )


async def test_a_watch_lists_then_says_so_then_tells_of_changes(store, watches):
    """In the order in which they happened."""
    async with Viewer(watches) as viewer:
        listed = await viewer.caught_up(store)
        await change(store)
        await store.deregister_agent(POLECAT)

        assert [MAYOR.agent, POLECAT.agent, "synced"] == told(listed)
        assert [MAYOR.agent, f"-{POLECAT.agent}"] == told(await viewer.caught_up(store))
        assert {MAYOR.agent: await store.get_agent(MAYOR)} == viewer.view


async def test_an_empty_town_is_synced_at_once(watches):
    """There is nothing to list."""
    store = CountingStore()
    async with Viewer(Watches(store, EAGER)) as viewer:
        assert ["synced"] == told(await viewer.caught_up(store))
        await change(store)
        assert [MAYOR.agent] == told(await viewer.caught_up(store))


async def test_a_position_goes_on_behind_it(store, watches, viewer):
    """At every step: nothing is told twice, nothing is left out."""
    await change(store)
    await store.deregister_agent(POLECAT)
    await viewer.caught_up(store)
    everything = told(viewer.steps)

    for index, step in enumerate(viewer.steps):
        async with Viewer(watches, step.position, viewer.view) as resumed:
            rest = told(await resumed.caught_up(store))
        expected = everything[index + 1 :]
        if index < 2:
            # Both were in the list before they changed; now only their last step is.
            expected = [MAYOR.agent, f"-{POLECAT.agent}", "synced"]
        assert expected == rest


async def test_a_change_is_read_once_for_all(store):
    """A hundred watchers cost the store what one costs, and are told the same step."""
    watches = Watches(store, HINTED)
    async with AsyncExitStack() as stack:
        viewers = [await stack.enter_async_context(Viewer(watches)) for _ in range(100)]
        for viewer in viewers:
            await viewer.caught_up(store)
        waiting = [asyncio.create_task(viewer.next()) for viewer in viewers]
        await all_follow(watches, 100)
        readings = store.readings

        await change(store)
        steps = await asyncio.gather(*waiting)

        assert [MAYOR] == list({step.name for step in steps})
        assert 1 == len({id(step) for step in steps})
        assert 3 > store.readings - readings


async def test_a_lost_hint_loses_no_change(store, watches, viewer):
    """It is looked at from time to time as well."""
    store.nudged = Nudges()
    await change(store)

    assert [MAYOR.agent] == told(await viewer.caught_up(store))


async def test_a_change_during_a_reading_is_not_missed(store, monkeypatch):
    """The hint that comes meanwhile makes it read again."""
    watches, read = Watches(store, HINTED), store.read_changes

    async def changing(town: str, after: Position | None = None) -> Changes:
        page = await read(town, after)
        if store.readings < 10:
            await change(store, model=str(store.readings))
        return page

    async with Viewer(watches) as viewer:
        await viewer.caught_up(store)
        await change(store)
        await viewer.next()
        monkeypatch.setattr(store, "read_changes", changing)
        await change(store, model="begin")
        await wait_until(lambda: store.readings >= 10)
        monkeypatch.undo()

        assert {MAYOR.agent} == set(told(await viewer.caught_up(store)))
        assert await store.get_agent(MAYOR) == viewer.view[MAYOR.agent]


@pytest.mark.parametrize(
    "limits",
    [
        pytest.param({"steps_max": 3}, id="steps"),
        pytest.param({"bytes_max": 3_000}, id="bytes"),
    ],
)
class TestSlow:
    async def stuffed(self, store: MemoryStore) -> None:
        for n in range(8):
            await change(store, AgentName(TOWN, f"a-{n}"))

    async def test_watchers_are_dropped_when_no_more_is_kept(self, store, limits):
        """The others are told everything, in order."""
        watches = Watches(store, replace(EAGER, **limits, patience_s=0.05))
        async with Viewer(watches) as slow, Viewer(watches) as quick:
            await slow.caught_up(store)
            await quick.caught_up(store)
            await change(store)
            await slow.next()

            await self.stuffed(store)
            await quick.caught_up(store)
            await wait_until(lambda: not feed_of(watches)._excess())

            with pytest.raises(ServiceError) as refused:
                await slow.next()
            assert Reason.WATCHER_TOO_SLOW is refused.value.reason
            assert 10 == len(quick.view)
            async with Viewer(watches, slow.position, slow.view) as again:
                await again.caught_up(store)
                assert quick.view == again.view

    async def test_watchers_that_were_dropped_hold_up_nobody(self, store, limits):
        """The feed does not wait for them again."""
        watches = Watches(store, replace(EAGER, **limits, patience_s=0.05))
        async with Viewer(watches) as slow, Viewer(watches) as quick:
            for viewer in (slow, quick):
                await viewer.caught_up(store)
            await change(store)
            for viewer in (slow, quick):
                await viewer.next()
            await self.stuffed(store)
            await quick.caught_up(store)
            feed = feed_of(watches)
            await wait_until(lambda: not feed._excess())

            feed._limits = replace(feed._limits, patience_s=60.0)
            for n in range(8):
                await change(store, AgentName(TOWN, f"b-{n}"))
            await quick.caught_up(store)

            await wait_until(lambda: not feed._steps)

    async def test_watchers_are_waited_for(self, store, limits):
        """Whoever reads on in time misses nothing."""
        watches = Watches(store, replace(EAGER, **limits, patience_s=60.0))
        async with Viewer(watches) as viewer:
            await viewer.caught_up(store)
            await change(store)
            await viewer.next()

            await self.stuffed(store)
            await wait_until(lambda: feed_of(watches)._excess())

            assert [f"a-{n}" for n in range(8)] == told(await viewer.caught_up(store))


async def test_what_all_have_taken_is_not_kept(store, watches, viewer):
    """Nor is what was overtaken."""
    await change(store)
    await viewer.next()
    feed = feed_of(watches)
    await wait_until(lambda: not feed._steps)
    for model in "abc":
        await change(store, model=model)
        await wait_until(lambda: feed._position.revision == store._town(TOWN).revision)

    assert 1 == len(feed._steps) == len(feed._latest)


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        pytest.param(AWAY, Reason.STORE_UNAVAILABLE, id="away"),
        pytest.param(KeyError("x"), Reason.INTERNAL, id="our defect"),
    ],
)
async def test_a_store_that_fails_ends_the_watches(store, watches, broken, reason):
    """Each can go on from where it was once the store is back."""
    async with Viewer(watches) as one, Viewer(watches) as two:
        for viewer in (one, two):
            await viewer.caught_up(store)
        waiting = [asyncio.create_task(viewer.next()) for viewer in (one, two)]
        await all_follow(watches, 2)

        store.broken = broken
        ends: list[Any] = await asyncio.gather(*waiting, return_exceptions=True)
        store.broken = None

        assert [reason] * 2 == [end.reason for end in ends]
        assert ends[0] is not ends[1]
    await change(store)
    async with Viewer(watches, one.position, one.view) as again:
        assert [MAYOR.agent] == told(await again.caught_up(store))


async def test_a_new_watch_does_not_join_a_feed_that_failed(store, watches):
    """Though others have not noticed yet."""
    async with Viewer(watches) as old, Viewer(watches) as new:
        await old.caught_up(store)
        await change(store)
        await old.next()
        store.broken = AWAY
        await wait_until(lambda: feed_of(watches).failure)
        store.broken = None

        await new.caught_up(store)
        await change(store, model="y")

        assert [MAYOR.agent] == told(await new.caught_up(store))
        with pytest.raises(ServiceError):
            await old.next()


async def test_nothing_is_left_when_the_last_watch_ends(store, watches):
    """No task, no feed; towns that nobody watches cost nothing."""
    before = asyncio.all_tasks()
    async with Viewer(watches) as viewer:
        await viewer.caught_up(store)
        await change(store)
        await viewer.next()
        assert 1 == len(asyncio.all_tasks() - before)

    assert before == asyncio.all_tasks()
    assert ({}, {}) == (watches._feeds, store.nudged._by_town)


async def test_a_watch_that_waits_keeps_nothing(store, watches, viewer):
    """Neither of the list nor of the last change."""
    await change(store)
    await viewer.next()
    steps = [weakref.ref(step) for step in viewer.steps]
    viewer.steps.clear()
    waiting = asyncio.create_task(viewer.next())

    await wait_until(lambda: not any(step() for step in steps))

    await change(store, model="y")
    assert MAYOR == (await waiting).name
