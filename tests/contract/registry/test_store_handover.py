"""What every store promises of agents whose holder is about to go: somebody else has
them at once, or anybody may."""

from __future__ import annotations

import asyncio

import pytest

from services.chassis.names import AgentName, InstanceName
from services.registry.hints import HANDED
from services.registry.leases import TTL_S, Lease, Release
from services.registry.store import RegistryStore
from tests.support.registry_samples import ADDRESS, BOOT, SPEC
from tests.support.registry_time import Time
from tests.support.tokens import TOWN

ONE, TWO, THREE = (InstanceName(TOWN, slot) for slot in ("one", "two", "three"))
A, B = AgentName(TOWN, "a"), AgentName(TOWN, "b")


async def boot(store: RegistryStore, *names: InstanceName, capacity: int = 0) -> None:
    for name in names:
        await store.register_instance(name, BOOT, ADDRESS, capacity)


async def offered(store: RegistryStore, name: InstanceName) -> int:
    return (await store.heartbeat(name, BOOT)).claimable


async def lease(store: RegistryStore, name: AgentName) -> Lease:
    found = (await store.get_agent(name)).lease
    assert found is not None
    return found


@pytest.fixture
async def held(store: RegistryStore) -> RegistryStore:
    """`one` holds two agents and is about to go; nobody else is there."""
    for name in (A, B):
        await store.register_agent(name, SPEC)
    await boot(store, ONE)
    await store.claim(ONE, BOOT)
    await store.heartbeat(ONE, BOOT, leaving=True)
    return store


async def test_somebody_else_holds_it_in_the_same_step(held):
    """Under the next epoch; a start elsewhere is refused from then on."""
    await boot(held, TWO)

    assert [] == await held.release(ONE, BOOT, [Release("a", 1)])

    found = await lease(held, A)
    assert (2, "two", True) == (found.epoch, found.instance, found.live)
    assert "active" == (await held.get_agent(A)).state


async def test_the_heir_is_told_until_it_asks(held):
    """Others are not; it gets the agent as one that it holds."""
    await boot(held, TWO)
    await held.release(ONE, BOOT, [Release("a", 1)])
    await boot(held, THREE)

    assert [1, 1, 0] == [await offered(held, each) for each in (TWO, TWO, THREE)]
    ((agent, taken_over),) = await held.claim(TWO, BOOT)
    assert (A, 2, False) == (agent.name, agent.lease.epoch, taken_over)
    assert 0 == await offered(held, TWO)


async def test_one_asked_for_by_name_is_told_no_more(held):
    """Somebody sent the heir a start before it heard."""
    await boot(held, TWO)
    await held.release(ONE, BOOT, [Release("a", 1)])

    ((agent, _),) = await held.claim(TWO, BOOT, ["a"])

    assert 2 == agent.lease.epoch
    assert 0 == await offered(held, TWO)


async def test_whoever_waits_for_messages_is_told_at_once(held):
    """A heartbeat would be seconds late."""
    await boot(held, TWO)
    async with held.hints(TOWN) as hints:
        await held.release(ONE, BOOT, [Release("a", 1), Release("b", 1)])

        async with asyncio.timeout(5):
            told = await anext(hints)
            while not told:  # Redis was connected to just now: look at everything.
                told = await anext(hints)
        assert HANDED + "two" == told


async def test_they_are_spread_as_claims_are(held):
    """Each goes where it fills least."""
    await boot(held, TWO, THREE)

    await held.release(ONE, BOOT, [Release("a", 1), Release("b", 1)])

    assert {"two", "three"} == {(await lease(held, each)).instance for each in (A, B)}


async def test_without_an_heir_anybody_may_have_it(held):
    """Nobody is there, or nobody has room, or who is there goes as well."""
    await held.release(ONE, BOOT, [Release("a", 1)])
    await boot(held, TWO, capacity=1)
    assert "" == (await lease(held, A)).instance
    assert [(A, False)] == [
        (agent.name, taken) for agent, taken in await held.claim(TWO, BOOT)
    ]
    await boot(held, THREE)
    await held.heartbeat(THREE, BOOT, leaving=True)

    await held.release(ONE, BOOT, [Release("b", 1)])

    assert "" == (await lease(held, B)).instance


async def test_who_drains_hands_on_and_is_no_heir(held):
    """As one that says so itself."""
    await held.heartbeat(ONE, BOOT)
    await boot(held, TWO, THREE)
    await held.announce_drain(TOWN, ["one", "two"])

    await held.release(ONE, BOOT, [Release("a", 1), Release("b", 1)])

    assert ["three"] * 2 == [(await lease(held, each)).instance for each in (A, B)]


async def test_who_stays_hands_nothing_on(held):
    """It gave the agent up for a reason; nor is what has ended anybody's."""
    await boot(held, TWO)
    await held.release(ONE, BOOT, [Release("a", 1, "stopped")])
    await held.heartbeat(ONE, BOOT)
    await held.release(ONE, BOOT, [Release("b", 1)])

    assert ["", ""] == [(await lease(held, each)).instance for each in (A, B)]
    assert "ended" == (await held.get_agent(A)).state


async def test_an_heir_that_dies_has_heirs(held, time: Time):
    """What it never asked for is offered when its time is over, and told no more."""
    await boot(held, TWO)
    await held.release(ONE, BOOT, [Release("a", 1), Release("b", 1, "stopped")])
    await boot(held, THREE)
    await time.passes(TTL_S - 1)
    await held.heartbeat(THREE, BOOT)
    await time.passes(2)

    assert 1 == await offered(held, THREE)
    claimed = await held.claim(THREE, BOOT)
    assert [(A, 3, True)] == [(a.name, a.lease.epoch, won) for a, won in claimed]
    assert 0 == await offered(held, TWO)
