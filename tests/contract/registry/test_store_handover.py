"""What every store promises of agents whose holder is about to go: somebody else has
them at once, or anybody may."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from services.chassis.names import AgentName, InstanceName
from services.registry.hints import Handed, Hint, Offered
from services.registry.leases import TTL_S, Evidence, Lease, Release
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


async def told_by(hints: AsyncIterator[Hint]) -> Hint:
    """The next hint but that one may have been missed, as when Redis is new to us."""
    async with asyncio.timeout(5):
        while not (hint := await anext(hints)):
            pass
    return hint


@pytest.fixture
async def held(store: RegistryStore) -> RegistryStore:
    """`one` holds two agents, and nobody else is there."""
    for name in (A, B):
        await store.register_agent(name, SPEC)
    await boot(store, ONE)
    await store.claim(ONE, BOOT)
    return store


@pytest.fixture
async def going(held: RegistryStore) -> RegistryStore:
    """The same, and `one` is about to go."""
    await held.heartbeat(ONE, BOOT, leaving=True)
    return held


async def test_somebody_else_holds_it_in_the_same_step(going):
    """Under the next epoch; a start elsewhere is refused from then on."""
    await boot(going, TWO)

    assert [] == await going.release(ONE, BOOT, [Release("a", 1)])

    found = await lease(going, A)
    assert (2, "two", True) == (found.epoch, found.instance, found.live)
    assert "active" == (await going.get_agent(A)).state


async def test_the_heir_is_told_until_it_asks(going):
    """Others are not; it gets the agent as one that it holds."""
    await boot(going, TWO)
    await going.release(ONE, BOOT, [Release("a", 1)])
    await boot(going, THREE)

    assert [1, 1, 0] == [await offered(going, each) for each in (TWO, TWO, THREE)]
    ((agent, taken_over),) = await going.claim(TWO, BOOT)
    assert (A, 2, False) == (agent.name, agent.lease.epoch, taken_over)
    assert 0 == await offered(going, TWO)


async def test_one_asked_for_by_name_is_told_until_it_is_shown(going):
    """Somebody sent the heir a start before it heard, and the answer may be lost."""
    await boot(going, TWO)
    await going.release(ONE, BOOT, [Release("a", 1)])

    ((agent, _),) = await going.claim(TWO, BOOT, ["a"])

    assert 2 == agent.lease.epoch
    assert 1 == await offered(going, TWO)
    pulse = await going.heartbeat(TWO, BOOT, [Evidence("a", 2)])
    assert 0 == pulse.claimable


async def test_whoever_waits_for_messages_is_told_at_once(going):
    """A heartbeat would be seconds late."""
    await boot(going, TWO)
    async with going.hints(TOWN) as hints:
        await going.release(ONE, BOOT, [Release("a", 1), Release("b", 1)])

        assert Handed("two") == await told_by(hints)


async def test_all_are_told_at_once_when_the_holder_has_died(held, time: Time):
    """By the beat of who notices: else the others are as late as their own beats."""
    await boot(held, TWO)
    await time.passes(TTL_S - 1)
    await boot(held, THREE)
    await held.heartbeat(TWO, BOOT)
    await time.passes(2)
    async with held.hints(TOWN) as hints:
        await held.heartbeat(TWO, BOOT)

        assert Offered() == await told_by(hints)


async def test_all_are_told_at_once_when_a_holder_goes_with_its_leases(held):
    """It had no time to hand them on."""
    await boot(held, TWO)
    async with held.hints(TOWN) as hints:
        await held.release_instance(ONE, BOOT)

        assert Offered() == await told_by(hints)


async def test_one_that_dies_without_leases_is_no_news(held, time: Time):
    """There is nothing to ask for."""
    await boot(held, TWO)
    await time.passes(TTL_S - 1)
    await held.heartbeat(ONE, BOOT)
    await time.passes(2)
    async with held.hints(TOWN) as hints:
        await held.heartbeat(ONE, BOOT)
        await held.heartbeat(ONE, BOOT, leaving=True)
        await boot(held, THREE)
        await held.release(ONE, BOOT, [Release("a", 1)])

        assert Handed("three") == await told_by(hints)


async def test_they_are_spread_as_claims_are(going):
    """Each goes where it fills least."""
    await boot(going, TWO, THREE)

    await going.release(ONE, BOOT, [Release("a", 1), Release("b", 1)])

    assert {"two", "three"} == {(await lease(going, each)).instance for each in (A, B)}


async def test_without_an_heir_anybody_may_have_it(going):
    """Nobody is there, or nobody has room, or who is there goes as well."""
    await going.release(ONE, BOOT, [Release("a", 1)])
    await boot(going, TWO, capacity=1)
    assert "" == (await lease(going, A)).instance
    assert [(A, False)] == [
        (agent.name, taken) for agent, taken in await going.claim(TWO, BOOT)
    ]
    await boot(going, THREE)
    await going.heartbeat(THREE, BOOT, leaving=True)

    await going.release(ONE, BOOT, [Release("b", 1)])

    assert "" == (await lease(going, B)).instance


async def test_who_drains_hands_on_and_is_no_heir(held):
    """As one that says so itself."""
    await boot(held, TWO, THREE)
    await held.announce_drain(TOWN, ["one", "two"])

    await held.release(ONE, BOOT, [Release("a", 1), Release("b", 1)])

    assert ["three"] * 2 == [(await lease(held, each)).instance for each in (A, B)]


async def test_who_stays_hands_nothing_on(held):
    """It gave the agent up for a reason."""
    await boot(held, TWO)

    await held.release(ONE, BOOT, [Release("a", 1)])

    assert "" == (await lease(held, A)).instance


async def test_what_has_ended_is_nobodys(going):
    """Whoever goes."""
    await boot(going, TWO)

    await going.release(ONE, BOOT, [Release("a", 1, "stopped")])

    assert "" == (await lease(going, A)).instance
    assert "ended" == (await going.get_agent(A)).state


async def test_a_beat_from_before_does_not_bring_it_back(going):
    """It was on its way when the instance said that it leaves."""
    await going.heartbeat(ONE, BOOT)
    await boot(going, TWO)

    await going.release(ONE, BOOT, [Release("a", 1)])

    assert "two" == (await lease(going, A)).instance


async def leaves(store: RegistryStore, name: InstanceName) -> None:
    await store.heartbeat(name, BOOT, leaving=True)


async def drains(store: RegistryStore, name: InstanceName) -> None:
    await store.announce_drain(TOWN, [name.instance])
    await store.heartbeat(name, BOOT)


@pytest.mark.parametrize("goes", [leaves, drains])
async def test_an_heir_that_goes_before_it_asks_has_heirs(going, goes):
    """It will never be told of the agent."""
    await boot(going, TWO)
    await going.release(ONE, BOOT, [Release("a", 1)])
    await boot(going, THREE)

    await goes(going, TWO)

    assert 1 == await offered(going, THREE)
    ((agent, taken_over),) = await going.claim(THREE, BOOT)
    assert (A, 3, False) == (agent.name, agent.lease.epoch, taken_over)


async def test_one_that_goes_runs_what_it_was_told_of_to_the_end(going):
    """Its own end gives that back, when it is saved."""
    await boot(going, TWO)
    await going.release(ONE, BOOT, [Release("a", 1)])
    await going.claim(TWO, BOOT)

    pulse = await going.heartbeat(TWO, BOOT, [Evidence("a", 2)], leaving=True)

    assert () == pulse.lost
    assert "two" == (await lease(going, A)).instance


async def test_one_that_goes_is_given_nothing_new(going):
    """However empty it is, and if nobody else is there."""
    await going.release(ONE, BOOT, [Release("a", 1)])

    held = {agent.name for agent, _ in await going.claim(ONE, BOOT)}

    assert {B} == held
    await boot(going, TWO)
    assert 1 == await offered(going, TWO)


async def test_an_heir_that_dies_has_heirs(going, time: Time):
    """What it never asked for is offered when its time is over, and told no more."""
    await boot(going, TWO)
    await going.release(ONE, BOOT, [Release("a", 1), Release("b", 1, "stopped")])
    await boot(going, THREE)
    await time.passes(TTL_S - 1)
    await going.heartbeat(THREE, BOOT)
    await time.passes(2)

    assert 1 == await offered(going, THREE)
    claimed = await going.claim(THREE, BOOT)
    assert [(A, 3, True)] == [(a.name, a.lease.epoch, won) for a, won in claimed]
    assert 0 == await offered(going, TWO)


async def test_the_heir_is_told_of_all_in_as_many_answers_as_it_takes(store):
    """One answer has no room for all of them: the rest is not forgotten."""
    agents = {AgentName(TOWN, f"a{number:02}") for number in range(30)}
    for name in agents:
        await store.register_agent(name, replace(SPEC, prompt="x" * 150_000))
    await boot(store, ONE)
    for _ in range(4):
        await store.claim(ONE, BOOT)
    await boot(store, TWO)
    await store.heartbeat(ONE, BOOT, leaving=True)
    for name in agents:
        await store.release(ONE, BOOT, [Release(name.agent, 1)])
    assert {"one": 0, "two": 30} == {
        each.slot: each.lease_count for each in await store.list_instances(TOWN)
    }

    told = set[AgentName]()
    for _ in range(4):
        if await offered(store, TWO):
            told |= {agent.name for agent, _ in await store.claim(TWO, BOOT)}

    assert agents == told
    assert 0 == await offered(store, TWO)
