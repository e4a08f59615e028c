"""Records as they lie in Redis: small, and as they once were."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest

from services.chassis.redis_pool import Store, connect
from services.registry.leases import Evidence
from services.registry.redis_store import opened
from services.registry.redis_town import TOWN_KEYS, town_keys
from services.registry.store import RegistryStore
from tests.support.redis_server import ValkeyProcess
from tests.support.registry_samples import ADDRESS, BOOT, FIRST, MAYOR, SPEC
from tests.support.tokens import TOWN

pytestmark = pytest.mark.redis

AGENTS = dict(zip(TOWN_KEYS, town_keys(TOWN), strict=True))["agents"]
ALWAYS = {"created", "updated", "revision", "digest", "role"}


@pytest.fixture
async def redis(valkey: ValkeyProcess) -> AsyncIterator[Store]:
    valkey.flush()
    redis = await connect(valkey.url)
    yield redis
    await redis.aclose()


@pytest.fixture
async def store(redis: Store) -> AsyncIterator[RegistryStore]:
    async with opened(redis, environment="tests") as store:
        yield store


async def test_what_is_true_of_most_agents_takes_no_room(redis, store):
    """A hundred thousand records share one Redis."""

    async def stored() -> set[str]:
        return set(json.loads(await redis.hget(AGENTS, MAYOR.agent)))

    await store.register_agent(MAYOR, SPEC)
    await store.register_instance(FIRST, BOOT, ADDRESS)
    await store.claim(FIRST, BOOT)
    assert ALWAYS == await stored()

    run = Evidence(MAYOR.agent, 1, generation=3, last_error="no room")
    await store.heartbeat(FIRST, BOOT, [run])

    assert {*ALWAYS, "generation", "last_error"} == await stored()


async def test_a_record_of_old_is_the_same(redis, store):
    """It says all of it; registered again as it is, nothing has changed."""
    before = await store.register_agent(MAYOR, SPEC)
    usual = {
        "state": "active",
        "end_reason": "",
        "generation": 0,
        "failed_starts": 0,
        "last_error": "",
        "place": "~",
        "claimable": True,
        "listed": -1,
        "database": True,
    }
    stored = json.loads(await redis.hget(AGENTS, MAYOR.agent))
    await redis.hset(AGENTS, MAYOR.agent, json.dumps({**usual, **stored}))

    assert before == await store.get_agent(MAYOR)
    assert before == await store.register_agent(MAYOR, SPEC)
