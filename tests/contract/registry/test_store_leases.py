"""What every store promises of instances and leases."""

from __future__ import annotations

from dataclasses import replace

import pytest

from services.chassis.errors import Reason, ServiceError
from services.chassis.names import AgentName, InstanceName
from services.registry.agents import State
from services.registry.leases import Evidence, InstanceState, Release
from services.registry.store import RegistryStore
from tests.support.registry_samples import (
    ADDRESS,
    BOOT,
    FIRST,
    MAYOR,
    OTHER_BOOT,
    POLECAT,
    SECOND,
    SPEC,
    message,
)
from tests.support.registry_time import Time
from tests.support.tokens import TOWN

A, B, C = (AgentName(TOWN, name) for name in ("a", "b", "c"))


@pytest.fixture
async def booted(store: RegistryStore) -> RegistryStore:
    """Three agents, and one instance that holds none of them."""
    for name in (A, B, C):
        await store.register_agent(name, SPEC)
    await store.register_instance(FIRST, BOOT, ADDRESS)
    return store


async def claim(store, name=FIRST, boot=BOOT, *agents, **options):
    """Agent → epoch, in the order of the answer."""
    claims = await store.claim(name, boot, agents, **options)
    return {agent.name.agent: agent.lease.epoch for agent, _ in claims}


async def refusal(awaitable) -> ServiceError:
    with pytest.raises(ServiceError) as refused:
        await awaitable
    return refused.value


class TestInstances:
    async def test_a_registered_one_is_ready(self, store):
        """It is listed with what it said, until it is not heard of for a TTL."""
        made = await store.register_instance(FIRST, BOOT, ADDRESS, 7)

        assert [made] == await store.list_instances(TOWN)
        assert (FIRST.instance, BOOT, ADDRESS, 7, InstanceState.READY, 0) == (
            made.slot,
            made.boot_id,
            made.address,
            made.capacity,
            made.state,
            made.lease_count,
        )
        assert 10 == (made.expire_time - made.register_time).total_seconds()

    async def test_the_same_boot_again_is_the_same_instance(self, store, time: Time):
        """A repeat renews it, and may say another address."""
        first = await store.register_instance(FIRST, BOOT, ADDRESS)
        await time.passes(5)

        second = await store.register_instance(FIRST, BOOT, "10.0.0.1:1")

        assert (first.sequence, "10.0.0.1:1") == (second.sequence, second.address)
        assert second.expire_time - second.register_time > (
            first.expire_time - first.register_time
        )

    async def test_one_not_heard_of_expires(self, store, time: Time):
        """A heartbeat in time keeps it; without one it is expired, later forgotten."""
        await store.register_instance(FIRST, BOOT, ADDRESS)
        await time.passes(9)
        await store.heartbeat(FIRST, BOOT)
        await time.passes(9)
        assert [InstanceState.READY] == await states(store)

        await time.passes(2)
        assert [InstanceState.EXPIRED] == await states(store)
        await time.passes(3600)
        assert [] == await states(store)

    async def test_leases_are_counted(self, booted):
        """Each instance is listed with how many leases it holds."""
        await booted.register_instance(SECOND, OTHER_BOOT, ADDRESS)
        await claim(booted, FIRST, BOOT, "a", "b")
        await claim(booted, SECOND, OTHER_BOOT, "c")

        found = await booted.list_instances(TOWN)

        assert [2, 1] == [instance.lease_count for instance in found]

    async def test_a_released_one_is_gone_at_once(self, booted):
        """What it leased is claimable, and releasing it again is fine."""
        await claim(booted)

        await booted.release_instance(FIRST, BOOT)
        await booted.release_instance(FIRST, BOOT)

        assert [] == await booted.list_instances(TOWN)
        await booted.register_instance(SECOND, OTHER_BOOT, ADDRESS)
        assert {"a": 2, "b": 2, "c": 2} == await claim(booted, SECOND, OTHER_BOOT)

    async def test_an_old_boot_cannot_release_the_new_one(self, store):
        """Whoever lost the slot has no say in it."""
        await store.register_instance(FIRST, BOOT, ADDRESS)
        await store.register_instance(FIRST, OTHER_BOOT, ADDRESS)

        error = await refusal(store.release_instance(FIRST, BOOT))

        assert Reason.LEASE_FENCED is error.reason
        assert [InstanceState.READY] == await states(store)


async def states(store) -> list[InstanceState]:
    return [instance.state for instance in await store.list_instances(TOWN)]


class TestHeartbeat:
    async def test_names_leases_that_are_lost(self, booted, time: Time):
        """Whoever was taken over, released or never held is named."""
        await claim(booted)
        await time.passes(11)
        await booted.register_instance(SECOND, OTHER_BOOT, ADDRESS)
        await claim(booted, SECOND, OTHER_BOOT, "a")
        await booted.release(FIRST, BOOT, [Release("b", 1)])
        runs = [Evidence(agent, 1) for agent in ("a", "b", "c", "nobody")]

        pulse = await booted.heartbeat(FIRST, BOOT, runs)

        assert ("a", "b", "nobody") == pulse.lost

    async def test_judges_by_epoch_as_well(self, booted):
        """A run of an earlier epoch is lost, though the instance holds the agent."""
        await claim(booted)
        await booted.release(FIRST, BOOT, [Release("a", 1)])
        await claim(booted)

        pulse = await booted.heartbeat(
            FIRST, BOOT, [Evidence("a", 1), Evidence("b", 1)]
        )

        assert ("a",) == pulse.lost

    async def test_names_its_agents_with_pending_messages(self, booted):
        """Only those that it holds itself."""
        await booted.register_instance(SECOND, OTHER_BOOT, ADDRESS)
        await claim(booted, FIRST, BOOT, "a")
        await claim(booted, SECOND, OTHER_BOOT, "b")
        for agent in (A, B, C):
            await booted.enqueue(message("m-1", agent), "Hello")

        assert ("a",) == (await booted.heartbeat(FIRST, BOOT)).pending
        assert ("b",) == (await booted.heartbeat(SECOND, OTHER_BOOT)).pending

    async def test_of_an_expired_boot_brings_it_back(self, booted, time: Time):
        """What nobody took meanwhile is still its own."""
        await claim(booted)
        await time.passes(11)

        pulse = await booted.heartbeat(FIRST, BOOT, [Evidence("a", 1)])

        assert () == pulse.lost
        assert [InstanceState.READY] == await states(booted)

    async def test_of_an_old_boot_is_fenced(self, store):
        """It is told who has the slot."""
        await store.register_instance(FIRST, BOOT, ADDRESS)
        await store.register_instance(FIRST, OTHER_BOOT, ADDRESS)

        error = await refusal(store.heartbeat(FIRST, BOOT))

        assert Reason.LEASE_FENCED is error.reason
        assert str(FIRST) == error.metadata["holder"]
        assert OTHER_BOOT == error.metadata["holder_boot_id"]

    async def test_of_a_stranger_asks_it_to_register(self, store):
        """A slot that nobody has cannot be renewed."""
        error = await refusal(store.heartbeat(FIRST, BOOT))

        assert Reason.INSTANCE_NOT_FOUND is error.reason


class TestClaimAll:
    async def test_gives_what_must_run_and_nobody_holds(self, booted):
        """In the order of the list; ended and configured agents are left alone."""
        await booted.register_agent(MAYOR, SPEC, configure_only=True)
        await claim(booted, FIRST, BOOT, "b")
        await booted.release(FIRST, BOOT, [Release("b", 1, "completed")])

        assert {"a": 1, "c": 1} == await claim(booted)
        ended = await booted.get_agent(B)
        assert (State.ENDED, "completed") == (ended.state, ended.end_reason)

    async def test_returns_what_it_gave_before(self, booted):
        """A repeat, after a lost answer, names the same leases and epochs."""
        first = await claim(booted)

        assert first == await claim(booted)

    async def test_gives_at_most_the_limit_and_goes_on(self, booted):
        """What it holds comes along, and does not use up the limit."""
        assert {"a": 1} == await claim(booted, limit=1)
        assert {"a": 1, "b": 1} == await claim(booted, limit=1)
        assert {"a": 1, "b": 1, "c": 1} == await claim(booted, limit=1)

    async def test_gives_no_more_than_the_capacity(self, booted):
        """Leases that it holds already count."""
        await booted.register_instance(FIRST, BOOT, ADDRESS, 2)

        assert {"a": 1, "b": 1} == await claim(booted)
        assert {"a": 1, "b": 1} == await claim(booted)

    async def test_takes_over_from_an_instance_that_expired(self, booted, time: Time):
        """With a higher epoch, and says so; not a moment earlier."""
        await claim(booted)
        await booted.register_instance(SECOND, OTHER_BOOT, ADDRESS)
        assert {} == await claim(booted, SECOND, OTHER_BOOT)
        await time.passes(11)
        await booted.heartbeat(SECOND, OTHER_BOOT)

        claims = await booted.claim(SECOND, OTHER_BOOT)

        assert [("a", 2, True), ("b", 2, True), ("c", 2, True)] == [
            (agent.name.agent, agent.lease.epoch, taken) for agent, taken in claims
        ]

    async def test_takes_over_a_slot_at_once(self, booted):
        """A new boot in the same slot need not wait for the old one to expire."""
        await claim(booted)
        await booted.register_instance(FIRST, OTHER_BOOT, ADDRESS)

        assert {"a": 2, "b": 2, "c": 2} == await claim(booted, FIRST, OTHER_BOOT)
        assert Reason.LEASE_FENCED is (await refusal(claim(booted))).reason

    async def test_asks_a_stranger_to_register(self, store):
        """Only an instance can hold a lease."""
        assert Reason.INSTANCE_NOT_FOUND is (await refusal(claim(store))).reason

    async def test_is_a_sign_of_life(self, booted, time: Time):
        """Whoever claims is there, heartbeat or not."""
        await time.passes(11)

        await claim(booted)

        assert [InstanceState.READY] == await states(booted)


class TestClaimNamed:
    @pytest.mark.parametrize("state", [State.CONFIGURED, State.ENDED])
    async def test_starts_an_agent_in_any_state(self, booted, state):
        """Naming it is wanting it to run: it is active from then on."""
        if state is State.ENDED:
            await claim(booted, FIRST, BOOT, "a")
            await booted.release(FIRST, BOOT, [Release("a", 1, "stopped")])
        else:
            await booted.register_agent(MAYOR, SPEC, configure_only=True)
        name = A if state is State.ENDED else MAYOR
        assert state is (await booted.get_agent(name)).state

        ((agent, taken),) = await booted.claim(FIRST, BOOT, [name.agent])

        assert (State.ACTIVE, "", False) == (agent.state, agent.end_reason, taken)
        assert agent == await booted.get_agent(name)

    async def test_gives_all_or_none(self, booted):
        """One that another holds spoils the claim; nothing is given then."""
        await booted.register_instance(SECOND, OTHER_BOOT, ADDRESS)
        await claim(booted, SECOND, OTHER_BOOT, "b")

        error = await refusal(claim(booted, FIRST, BOOT, "a", "b"))

        assert Reason.LEASE_HELD is error.reason
        assert {"holder": str(SECOND), "name": str(B), "epoch": "1"} == error.metadata
        assert (await booted.get_agent(A)).lease is None

    async def test_refuses_an_agent_that_is_not_there(self, booted):
        """And gives the others to nobody."""
        error = await refusal(claim(booted, FIRST, BOOT, "a", "nobody"))

        assert Reason.AGENT_NOT_FOUND is error.reason
        assert (await booted.get_agent(A)).lease is None

    async def test_returns_the_epoch_that_the_boot_has(self, booted):
        """A repeat is no new lease."""
        assert {"a": 1} == await claim(booted, FIRST, BOOT, "a")
        assert {"a": 1} == await claim(booted, FIRST, BOOT, "a")


class TestRelease:
    async def test_without_a_reason_leaves_the_agent_to_others(self, booted):
        """It still must run: any instance may have it."""
        await claim(booted, FIRST, BOOT, "a")

        skipped = await booted.release(FIRST, BOOT, [Release("a", 1)])

        agent = await booted.get_agent(A)
        assert ([], State.ACTIVE) == (skipped, agent.state)
        assert agent.lease is not None
        assert (1, "", "", False) == (
            agent.lease.epoch,
            agent.lease.instance,
            agent.lease.boot_id,
            agent.lease.live,
        )
        claims = await booted.claim(FIRST, BOOT, ["a"])
        assert [(2, False)] == [(each.lease.epoch, taken) for each, taken in claims]

    @pytest.mark.parametrize(
        ("boot", "epoch"),
        [
            pytest.param(OTHER_BOOT, 1, id="other boot"),
            pytest.param(BOOT, 2, id="other epoch"),
        ],
    )
    async def test_names_what_was_not_held(self, booted, boot, epoch):
        """Releasing another's lease releases nothing."""
        await claim(booted, FIRST, BOOT, "a")

        releases = [Release("a", epoch, "stopped"), Release("nobody", 1)]
        skipped = await booted.release(FIRST, boot, releases)

        agent = await booted.get_agent(A)
        assert (["a", "nobody"], State.ACTIVE) == (skipped, agent.state)
        assert agent.lease is not None
        assert agent.lease.live


class TestResolve:
    async def test_names_the_holder(self, booted):
        """Also while it drains: the agent is there."""
        await booted.register_instance(SECOND, OTHER_BOOT, ADDRESS)
        await claim(booted, FIRST, BOOT, "a", "b")
        await booted.announce_drain(TOWN, [FIRST.instance])

        resolution = await booted.resolve(A)

        assert (FIRST.instance, True, InstanceState.DRAINING) == (
            resolution.instance.slot,
            resolution.holds_lease,
            resolution.instance.state,
        )

    async def test_else_names_the_least_loaded(self, booted, time: Time):
        """Of equals the first; never one that drains or expired."""
        third = InstanceName(TOWN, "supervisor-3")
        await claim(booted, FIRST, BOOT, "a", "b")
        await booted.register_instance(SECOND, OTHER_BOOT, ADDRESS)
        await booted.register_instance(third, OTHER_BOOT, ADDRESS)

        async def chosen() -> str:
            resolution = await booted.resolve(POLECAT)
            assert not resolution.holds_lease
            return resolution.instance.slot

        assert SECOND.instance == await chosen()
        await booted.announce_drain(TOWN, [SECOND.instance])
        assert third.instance == await chosen()
        await time.passes(11)
        await booted.heartbeat(FIRST, BOOT)
        assert FIRST.instance == await chosen()

    async def test_says_when_there_is_no_one(self, booted, time: Time):
        """No live instance, no answer."""
        await claim(booted)
        await time.passes(11)

        error = await refusal(booted.resolve(A))

        assert Reason.NO_INSTANCE is error.reason


async def test_epochs_never_go_back(booted, time: Time):
    """Whatever ends a lease, the next one is higher."""
    epochs = [(await claim(booted, FIRST, BOOT, "a"))["a"]]
    await booted.release(FIRST, BOOT, [Release("a", epochs[-1])])
    epochs.append((await claim(booted, FIRST, BOOT, "a"))["a"])
    await time.passes(11)
    await booted.register_instance(SECOND, BOOT, ADDRESS)
    epochs.append((await claim(booted, SECOND, BOOT, "a"))["a"])
    await booted.release_instance(SECOND, BOOT)
    await booted.deregister_agent(A)
    await booted.register_agent(A, replace(SPEC, prompt="Again."))
    await booted.register_instance(SECOND, OTHER_BOOT, ADDRESS)
    epochs.append((await claim(booted, SECOND, OTHER_BOOT, "a"))["a"])

    assert [1, 2, 3, 4] == epochs
