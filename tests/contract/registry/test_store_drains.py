"""What every store promises of drains: bound to boots and a nonce."""

from __future__ import annotations

import pytest

from services.chassis.errors import Reason, ServiceError
from services.registry.leases import InstanceState
from services.registry.store import RegistryStore
from tests.support.registry_samples import (
    ADDRESS,
    BOOT,
    FIRST,
    MAYOR,
    OTHER_BOOT,
    SECOND,
    SPEC,
)
from tests.support.registry_time import Time
from tests.support.tokens import TOWN


@pytest.fixture
async def pair(store: RegistryStore) -> RegistryStore:
    """Two instances."""
    await store.register_instance(FIRST, BOOT, ADDRESS)
    await store.register_instance(SECOND, OTHER_BOOT, ADDRESS)
    return store


async def states(store) -> list[InstanceState]:
    return [instance.state for instance in await store.list_instances(TOWN)]


async def test_binds_all_live_instances_unless_some_are_named(pair):
    """None named means all."""
    drain = await pair.announce_drain(TOWN)

    assert {FIRST.instance: BOOT, SECOND.instance: OTHER_BOOT} == drain.bound
    assert drain == await pair.get_drain(TOWN)
    assert [InstanceState.DRAINING] * 2 == await states(pair)


async def test_binds_only_the_named(pair):
    """The others go on, and take agents."""
    drain = await pair.announce_drain(TOWN, [FIRST.instance])

    assert {FIRST.instance: BOOT} == drain.bound
    assert [InstanceState.DRAINING, InstanceState.READY] == await states(pair)


async def test_a_bound_instance_gets_no_agents(pair):
    """Neither all nor named ones; another instance gets them."""
    await pair.register_agent(MAYOR, SPEC)
    drain = await pair.announce_drain(TOWN, [FIRST.instance])

    for agents in ((), (MAYOR.agent,)):
        with pytest.raises(ServiceError) as refused:
            await pair.claim(FIRST, BOOT, agents)
        assert Reason.DRAINING is refused.value.reason
        assert drain.nonce == refused.value.metadata["nonce"]
    assert 1 == len(await pair.claim(SECOND, OTHER_BOOT))


async def test_heartbeats_tell_the_nonce_and_never_clear_it(pair):
    """Only instances that are bound are told."""
    drain = await pair.announce_drain(TOWN, [FIRST.instance])

    first = await pair.heartbeat(FIRST, BOOT)
    second = await pair.heartbeat(SECOND, OTHER_BOOT)

    assert (drain.nonce, "") == (first.drain_nonce, second.drain_nonce)
    assert drain == await pair.get_drain(TOWN)


async def test_the_same_again_answers_with_the_same_nonce(pair):
    """A repeat is no new drain; neither is a part of one that is on."""
    drain = await pair.announce_drain(TOWN)

    assert drain == await pair.announce_drain(TOWN)
    assert drain == await pair.announce_drain(TOWN, [FIRST.instance])


async def test_another_instance_joins_under_a_new_nonce(pair):
    """Whoever is bound stays bound; the earlier nonce is worth nothing."""
    first = await pair.announce_drain(TOWN, [FIRST.instance])

    second = await pair.announce_drain(TOWN, [SECOND.instance])

    assert {FIRST.instance, SECOND.instance} == set(second.bound)
    assert first.nonce != second.nonce
    assert not await pair.confirm_ready(TOWN, first.nonce)
    assert second.nonce == (await pair.heartbeat(FIRST, BOOT)).drain_nonce


async def test_the_nonce_clears_it(pair):
    """Another's does not; and when nothing drains, anything is ready."""
    drain = await pair.announce_drain(TOWN)

    assert not await pair.confirm_ready(TOWN, "another")
    assert await pair.confirm_ready(TOWN, drain.nonce)
    assert await pair.get_drain(TOWN) is None
    assert await pair.confirm_ready(TOWN, drain.nonce)
    assert await pair.confirm_ready(TOWN, "another")


@pytest.mark.parametrize("name", [FIRST, SECOND], ids=["same slot", "other slot"])
async def test_an_instance_registered_later_clears_it(pair, name):
    """The successor has come; the same boot again is no successor."""
    await pair.announce_drain(TOWN, [FIRST.instance])
    await pair.register_instance(FIRST, BOOT, ADDRESS)
    assert await pair.get_drain(TOWN) is not None

    await pair.register_instance(name, "33333333-3333-4333-8333-333333333333", ADDRESS)

    assert await pair.get_drain(TOWN) is None


@pytest.mark.parametrize("how", ["released", "expired"])
async def test_ends_when_all_that_it_binds_are_gone(pair, time: Time, how):
    """One of them left keeps it; none ends it."""
    drain = await pair.announce_drain(TOWN)

    async def goes(name, boot) -> None:
        if how == "released":
            await pair.release_instance(name, boot)
        else:
            await time.passes(11)

    if how == "released":
        await goes(FIRST, BOOT)
    else:
        await time.passes(6)
        await pair.heartbeat(SECOND, OTHER_BOOT)
        await time.passes(6)
    assert drain == await pair.get_drain(TOWN)

    await goes(SECOND, OTHER_BOOT)
    assert await pair.get_drain(TOWN) is None
    assert await pair.confirm_ready(TOWN, "anything")


async def test_refuses_instances_that_are_not_live(pair, time: Time):
    """Nothing is bound then."""
    for slot in ("nobody", FIRST.instance):
        with pytest.raises(ServiceError) as refused:
            await pair.announce_drain(TOWN, [SECOND.instance, slot])
        assert Reason.INSTANCE_NOT_FOUND is refused.value.reason
        await time.passes(11)
        await pair.heartbeat(SECOND, OTHER_BOOT)

    assert await pair.get_drain(TOWN) is None


async def test_a_town_without_instances_has_nothing_to_empty(store):
    """The announcement is answered, and nothing drains."""
    drain = await store.announce_drain(TOWN)

    assert {} == drain.bound
    assert "" != drain.nonce
    assert await store.get_drain(TOWN) is None
    assert await store.confirm_ready(TOWN, drain.nonce)
