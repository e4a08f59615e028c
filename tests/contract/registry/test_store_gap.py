"""A gap in the registry's own service costs nobody a lease."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from services.chassis.redis_pool import Durability, Store, connect
from services.registry.leases import Evidence, InstanceState
from services.registry.redis_hints import RedisHints
from services.registry.redis_specs import StoredSpecs
from services.registry.redis_store import RedisStore
from services.registry.redis_town import RedisTown
from services.registry.store import RegistryStore
from tests.support.clock import ManualClock
from tests.support.redis_server import ValkeyProcess
from tests.support.registry_samples import (
    ADDRESS,
    BOOT,
    FIRST,
    MAYOR,
    OTHER_BOOT,
    SECOND,
    SPEC,
)
from tests.support.registry_time import RedisTime
from tests.support.tokens import TOWN

pytestmark = pytest.mark.redis

RUN = Evidence(MAYOR.agent, 1)


class Replica:
    """One registry's side of the store, without the task that marks its service."""

    def __init__(self, redis: Store) -> None:
        self.clock = ManualClock()
        self.town = RedisTown(redis, Durability(redis), clock=self.clock)
        self.store: RegistryStore = RedisStore(
            self.town, RedisHints(redis), StoredSpecs()
        )


@pytest.fixture
async def redis(valkey: ValkeyProcess) -> AsyncIterator[Store]:
    valkey.flush()
    store = await connect(valkey.url)
    yield store
    await store.aclose()


@pytest.fixture
async def first(redis: Store) -> Replica:
    """A registry that serves; one instance holds one agent, another holds none."""
    replica = Replica(redis)
    await replica.store.register_agent(MAYOR, SPEC)
    await replica.store.register_instance(SECOND, OTHER_BOOT, ADDRESS)
    await replica.store.register_instance(FIRST, BOOT, ADDRESS)
    await replica.store.claim(FIRST, BOOT)
    return replica


@pytest.fixture
def time(redis: Store) -> RedisTime:
    return RedisTime(redis, TOWN)


async def claimed(store: RegistryStore) -> int:
    return len(await store.claim(SECOND, OTHER_BOOT))


async def test_leases_outlast_a_registry_that_was_away(redis, first, time):
    """Restarted after a minute, it lets nobody take over; the holder renews."""
    await time.passes_unserved(60)
    second = Replica(redis)

    assert 0 == await claimed(second.store)
    states = [each.state for each in await second.store.list_instances(TOWN)]
    assert [InstanceState.READY] * 2 == states
    assert (await second.store.resolve(MAYOR)).holds_lease
    assert () == (await second.store.heartbeat(FIRST, BOOT, [RUN])).lost


async def test_but_only_for_one_ttl(redis, first, time):
    """Whoever does not renew then has expired."""
    await time.passes_unserved(60)
    second = Replica(redis)
    assert 0 == await claimed(second.store)

    await time.passes(9)
    await second.town.serve()
    assert 0 == await claimed(second.store)
    await time.passes(2)
    await second.town.serve()
    assert 1 == await claimed(second.store)


async def test_an_instance_that_had_expired_before_stays_so(redis, first, time):
    """The gap brings nobody back."""
    await time.passes(11)
    await first.town.serve()
    await time.passes_unserved(60)

    assert 1 == await claimed(Replica(redis).store)


@pytest.mark.parametrize("away_s", [0, 4])
async def test_a_short_restart_is_no_gap(redis, first, time, away_s):
    """A dead holder is taken over as soon as its time is up."""
    await time.passes(7)
    await first.town.serve()
    await time.passes_unserved(away_s)

    assert (1 if away_s else 0) == await claimed(Replica(redis).store)


async def test_a_registry_that_slept_asks_before_it_judges(first, time):
    """Stopped for a minute and woken, its first call already knows of the gap."""
    await time.passes_unserved(60)
    first.clock.advance(60)

    assert 0 == await claimed(first.store)


async def test_another_replica_that_served_leaves_no_gap(redis, first, time):
    """One of two away is not the registry away."""
    second = Replica(redis)
    await time.passes(11)
    await second.town.serve()
    first.clock.advance(11)

    assert 1 == await claimed(first.store)
