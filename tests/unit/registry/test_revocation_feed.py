"""What watchers of revocations are told, and when they are told nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from services.chassis.errors import Reason, ServiceError
from services.chassis.revocations import STALE_S, RevocationList, Revoked
from services.registry import revocation_feed
from services.registry.revocation_feed import SYNCED, RevocationFeed, Step
from services.registry.revocations import Revocation
from tests.fakes.registry_store import MemoryStore
from tests.support.clock import ManualClock
from tests.support.tokens import FOREIGN_TOWN, TOWN


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def store(clock: ManualClock) -> MemoryStore:
    return MemoryStore(clock)


@pytest.fixture
def known(clock: ManualClock) -> RevocationList:
    return RevocationList(followed=True, clock=clock)


@pytest.fixture
def feed(store: MemoryStore, known: RevocationList) -> RevocationFeed:
    return RevocationFeed(store, known)


async def nothing_yet(steps: AsyncIterator[Step]) -> asyncio.Task[Step]:
    """The next step, which does not come by itself."""
    task = asyncio.ensure_future(anext(steps))
    for _ in range(20):
        await asyncio.sleep(0)
    assert not task.done()
    return task


async def test_a_town_whose_list_ends_is_told_of(
    store: MemoryStore, feed: RevocationFeed, clock: ManualClock
) -> None:
    """Followers forget it too: their memory is bounded as ours is."""
    await store.revoke(TOWN, Revocation(("a",)))
    await feed.refresh()
    steps = feed.watch(None)
    assert Step(TOWN, Revoked(frozenset("a"))) == await anext(steps)
    assert SYNCED is await anext(steps)

    store._lists.clear()
    store._revision = 0
    await feed.refresh()

    assert Step(TOWN) == await anext(steps)
    assert {} == feed._towns


async def test_many_changes_are_one_step(
    store: MemoryStore, feed: RevocationFeed
) -> None:
    """A watcher that reads slowly is told how it stands, not how it came about."""
    await feed.refresh()
    steps = feed.watch(TOWN)
    assert SYNCED is await anext(steps)
    for each in "abc":
        await store.revoke(TOWN, Revocation((each,)))
        await store.revoke(FOREIGN_TOWN, Revocation((each,)))
        await feed.refresh()

    assert Step(TOWN, Revoked(frozenset("abc"))) == await anext(steps)
    assert SYNCED is await anext(steps)


async def test_cut_off_from_its_store_it_gives_no_sign_of_life(
    feed: RevocationFeed, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody who follows may believe that its lists are fresh; from the first answer
    on they are."""
    monkeypatch.setattr(revocation_feed, "SIGN_OF_LIFE_S", 0)
    await feed.refresh()
    clock.advance(STALE_S + 1)

    step = await nothing_yet(feed.watch(None))

    await feed.refresh()
    assert SYNCED is await step


async def test_a_store_that_is_away_is_waited_for(
    store: MemoryStore, feed: RevocationFeed, known: RevocationList, clock: ManualClock
) -> None:
    """What was known holds meanwhile, and health tells."""
    await store.revoke(TOWN, Revocation(("a",)))
    await feed.refresh()
    store.failure = ServiceError(Reason.STORE_UNAVAILABLE, "cannot reach Redis")
    running = asyncio.create_task(feed.run())
    clock.advance(STALE_S + 1)

    assert "earlier revocations hold" in known.complaint()
    assert Revoked(frozenset("a")) == known._towns[TOWN]
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
