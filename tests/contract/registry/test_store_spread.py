"""What every store promises of agents that have lost their holder: who is offered them,
who takes how many."""

from __future__ import annotations

import pytest

from services.chassis.names import AgentName, InstanceName
from services.registry.leases import TTL_S, Evidence, InstanceState, Release
from services.registry.store import RegistryStore
from tests.support.registry_samples import ADDRESS, BOOT, SPEC, entries, entry_json
from tests.support.registry_time import Time
from tests.support.tokens import TOWN

ONE, TWO, THREE = (InstanceName(TOWN, slot) for slot in ("one", "two", "three"))
NEW_BOOT = "33333333-3333-4333-8333-333333333333"
SOON_S = TTL_S - 1
LATE_S = TTL_S + 1


async def boot(store: RegistryStore, *names: InstanceName, capacity: int = 0) -> None:
    for name in names:
        await store.register_instance(name, BOOT, ADDRESS, capacity)


async def have(store: RegistryStore, count: int) -> list[str]:
    """So many agents that must run."""
    agents = [f"a{number:02}" for number in range(count)]
    for agent in agents:
        await store.register_agent(AgentName(TOWN, agent), SPEC)
    return agents


async def offered(store: RegistryStore, name: InstanceName, *runs: str) -> int:
    evidence = [Evidence(run, 1) for run in runs]
    return (await store.heartbeat(name, BOOT, evidence)).claimable


async def taken(store: RegistryStore, name: InstanceName, boot_id: str) -> list[str]:
    """What it holds after a claim."""
    return [agent.name.agent for agent, _ in await store.claim(name, boot_id)]


async def take(store: RegistryStore, name: InstanceName, boot_id: str = BOOT) -> int:
    return len(await taken(store, name, boot_id))


@pytest.fixture
async def three(store: RegistryStore) -> RegistryStore:
    """Six agents, all of which `one` holds; `two` and `three` hold none."""
    await have(store, 6)
    await boot(store, ONE)
    assert 6 == await take(store, ONE)
    await boot(store, TWO, THREE)
    return store


async def dies(store: RegistryStore, time: Time, *living: InstanceName) -> None:
    """Time passes in which only these are heard from."""
    await time.passes(SOON_S)
    for name in living:
        await store.heartbeat(name, BOOT)
    await time.passes(LATE_S - SOON_S)


async def test_nothing_is_offered_while_all_are_held(three):
    """Nor are agents that somebody is just starting by name."""
    assert 0 == await offered(three, TWO)
    await three.register_agent(AgentName(TOWN, "new"), SPEC)

    assert 0 == await offered(three, TWO)


async def test_the_living_share_what_the_dead_one_held(three, time: Time):
    """Each takes its part; whoever comes first does not take all."""
    await dies(three, time, TWO, THREE)

    assert 6 == await offered(three, TWO)
    assert 3 == await take(three, TWO)
    assert 3 == await take(three, TWO)
    assert 3 == await offered(three, THREE)
    assert 3 == await take(three, THREE)
    assert 0 == await offered(three, TWO)


async def test_a_part_follows_the_capacity(store, time: Time):
    """Twice the capacity, twice as many; those that an instance has count."""
    await have(store, 10)
    await boot(store, ONE)
    await take(store, ONE)
    await boot(store, TWO, capacity=3)
    await boot(store, THREE, capacity=6)
    await store.release(ONE, BOOT, [Release("a00", 1)])
    await store.claim(THREE, BOOT, ["a00"])
    await dies(store, time, TWO, THREE)
    await offered(store, TWO)

    assert [3, 6] == [await take(store, TWO), await take(store, THREE)]
    # One is left, and all are full.
    assert 0 == await offered(store, TWO, "a", "b", "c")


async def test_what_nobody_came_for_is_for_the_first_that_comes(three, time: Time):
    """One that is ready and does nothing keeps no agent from running."""
    await dies(three, time, TWO, THREE)
    await offered(three, TWO)
    assert 3 == await take(three, TWO)
    await dies(three, time, TWO, THREE)

    assert 3 == await offered(three, TWO)
    assert 6 == await take(three, TWO)


async def test_one_that_drains_is_left_out(three, time: Time):
    """It is offered nothing, and nothing is left for it."""
    await three.announce_drain(TOWN, [THREE.instance])
    await dies(three, time, TWO, THREE)

    assert 0 == await offered(three, THREE)
    assert 6 == await offered(three, TWO)
    assert 6 == await take(three, TWO)


async def test_one_that_leaves_gets_nothing_back(three):
    """What is on offer is for the others, however empty it is."""
    await three.release(ONE, BOOT, [Release("a00", 1)])
    assert 1 == await offered(three, TWO)
    await three.heartbeat(ONE, BOOT, leaving=True)

    pulse = await three.heartbeat(ONE, BOOT, leaving=True)
    assert 0 == pulse.claimable
    assert "a00" not in await taken(three, ONE, BOOT)
    assert ["a00"] == await taken(three, THREE, BOOT)
    one, *_ = await three.list_instances(TOWN)
    assert InstanceState.DRAINING is one.state


async def test_an_instance_that_ends_offers_what_it_has(three):
    """At once."""
    await three.release_instance(ONE, BOOT)

    assert 6 == await offered(three, TWO)
    assert 3 == await take(three, TWO)


async def test_a_lease_given_back_is_offered(three):
    """At once, unless it was given back with a reason or until somebody boots."""
    releases = [
        Release("a00", 1),
        Release("a01", 1, "stopped"),
        Release("a02", 1, wait_for_boot=True),
    ]
    await three.release(ONE, BOOT, releases)

    assert 1 == await offered(three, THREE)
    assert ["a00"] == await taken(three, THREE, BOOT)
    assert [] == await taken(three, TWO, BOOT)
    await three.register_instance(TWO, NEW_BOOT, ADDRESS)
    assert ["a02"] == await taken(three, TWO, NEW_BOOT)


async def test_a_slot_has_its_own_first(three, time: Time):
    """Its disk may hold what was never saved. After a TTL they are anybody's."""
    await three.register_instance(ONE, NEW_BOOT, ADDRESS)

    assert 0 == await offered(three, TWO)
    assert 0 == await take(three, TWO)
    assert 6 == await take(three, ONE, NEW_BOOT)
    await three.register_instance(ONE, BOOT, ADDRESS)
    await time.passes(SOON_S)
    await three.heartbeat(TWO, BOOT)
    await time.passes(LATE_S - SOON_S)

    assert 6 == await offered(three, TWO)
    assert 6 == await take(three, TWO)


async def test_one_that_comes_back_in_time_keeps_all(three, time: Time):
    """Late, but before anybody claimed: the offer is gone."""
    await dies(three, time, TWO, THREE)
    assert 6 == await offered(three, TWO)
    await three.heartbeat(ONE, BOOT)

    assert 0 == await take(three, TWO)
    assert 0 == await offered(three, TWO)


async def test_agents_that_end_are_offered_no_more(three):
    """Ended by a list, or deregistered."""
    await three.release_instance(ONE, BOOT)
    await three.deregister_agent(AgentName(TOWN, "a00"))
    await three.replace_agents(TOWN, entries(entry_json("a01")))

    assert [0, 1] == [await take(three, TWO), await take(three, THREE)]
    assert 0 == await offered(three, TWO)


async def test_what_is_listed_anew_is_on_offer_no_more(three):
    """On offer, ended by a list, listed again: for who boots, so nobody need ask."""
    await three.release_instance(ONE, BOOT)
    await three.replace_agents(TOWN, entries(entry_json("a01")))
    everybody = (f"a0{n}" for n in range(6))
    await three.replace_agents(TOWN, entries(*map(entry_json, everybody)))

    assert 1 == await offered(three, TWO)


async def test_listed_ones_wait_for_a_boot(three):
    """A list is for instances that boot from then on, and is spread over those."""
    await three.replace_agents(TOWN, entries(*map(entry_json, ("x", "y"))))
    assert 0 == await offered(three, TWO)

    assert 0 == await take(three, TWO)
    await three.register_instance(TWO, NEW_BOOT, ADDRESS)
    assert 2 == await take(three, TWO, NEW_BOOT)
