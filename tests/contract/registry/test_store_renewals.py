"""What every store promises of a holder's next epoch."""

from __future__ import annotations

import pytest

from services.chassis.errors import Reason, ServiceError
from services.chassis.names import AgentName
from services.registry.store import RegistryStore
from tests.support.registry_samples import (
    ADDRESS,
    BOOT,
    FIRST,
    OTHER_BOOT,
    SECOND,
    SPEC,
)
from tests.support.tokens import TOWN

A, B = (AgentName(TOWN, name) for name in ("a", "b"))


@pytest.fixture
async def booted(store: RegistryStore) -> RegistryStore:
    """Two agents and two instances; the first holds the first agent."""
    for name in (A, B):
        await store.register_agent(name, SPEC)
    await store.register_instance(FIRST, BOOT, ADDRESS)
    await store.register_instance(SECOND, OTHER_BOOT, ADDRESS)
    await store.claim(FIRST, BOOT, [A.agent])
    return store


async def refused(store: RegistryStore) -> Reason:
    """Why the first instance is not given both."""
    with pytest.raises(ServiceError) as error:
        await store.claim(FIRST, BOOT, [A.agent, B.agent], renew=True)
    return error.value.reason


async def epoch(store: RegistryStore) -> int:
    """That of the first agent."""
    lease = (await store.get_agent(A)).lease
    assert lease is not None
    return lease.epoch


async def test_goes_to_whom_it_is_already(booted: RegistryStore) -> None:
    """In one step, and from nobody; what is not its own it is given as always."""
    claims = await booted.claim(FIRST, BOOT, [A.agent, B.agent], renew=True)

    assert [(2, False), (1, False)] == [
        (agent.lease and agent.lease.epoch, taken) for agent, taken in claims
    ]
    assert 2 == await epoch(booted)


async def test_takes_nothing_from_others(booted: RegistryStore) -> None:
    """Nor is anything renewed then."""
    await booted.claim(SECOND, OTHER_BOOT, [B.agent])

    assert Reason.LEASE_HELD is await refused(booted)
    assert 1 == await epoch(booted)


async def test_an_instance_that_drains_has_it_too(booted: RegistryStore) -> None:
    """It saves what it has to the end, but is given nothing new."""
    await booted.announce_drain(TOWN)

    assert Reason.DRAINING is await refused(booted)
    assert 1 == await epoch(booted)
    await booted.claim(FIRST, BOOT, [A.agent], renew=True)
    assert 2 == await epoch(booted)
