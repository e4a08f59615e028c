"""What lies in Redis of an agent's secrets: nothing in clear, from the next write."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from services.chassis.errors import Reason, ServiceError
from services.chassis.names import InstanceName
from services.chassis.redis_pool import Store, connect
from services.chassis.sealing import SealingKeys, rotate_sealing
from services.registry.leases import Release
from services.registry.redis_specs import StoredSpecs
from services.registry.redis_store import RedisStore, opened
from services.registry.redis_town import town_keys
from tests.support.redis_server import ValkeyProcess
from tests.support.registry_samples import (
    ADDRESS,
    BOOT,
    FIRST,
    MAYOR,
    POLECAT,
    SPEC,
    entries,
    entry_json,
    request,
)
from tests.support.tokens import TOWN

pytestmark = pytest.mark.redis

SECRET = "p1anted-s3cret"
SECRETIVE = replace(SPEC, env_vars={"GIT_TOKEN": SECRET})
ENTRY = entry_json(request=request(envVars={"KILOCODE_TOKEN": SECRET}))
SPECS = town_keys(TOWN)[1]


@pytest.fixture
async def redis(valkey: ValkeyProcess) -> AsyncIterator[Store]:
    valkey.flush()
    store = await connect(valkey.url)
    yield store
    await store.aclose()


@pytest.fixture
def keys(tmp_path: Path) -> SealingKeys:
    return SealingKeys.create(tmp_path)


@asynccontextmanager
async def serving(redis: Store, specs: StoredSpecs) -> AsyncIterator[RedisStore]:
    async with opened(redis, environment="tests", specs=specs) as store:
        yield store


async def dump(redis: Store) -> bytes:
    """Everything that Redis has."""
    found = b""
    for key in await redis.execute_command("KEYS", "*"):
        kind = await redis.execute_command("TYPE", key)
        read = {
            b"hash": ("HGETALL", key),
            b"zset": ("ZRANGE", key, 0, -1),
            b"set": ("SMEMBERS", key),
            b"string": ("GET", key),
        }[kind]
        found += repr(await redis.execute_command(*read)).encode()
    return found


async def test_nothing_is_in_clear(redis, keys):
    """Neither of a spec nor of an entry, nor of what is remembered about requests."""
    async with serving(redis, StoredSpecs(keys)) as store:
        await store.register_agent(MAYOR, SECRETIVE, request_id="r-1")
        await store.replace_agents(TOWN, entries(ENTRY))
        await store.register_instance(FIRST, BOOT, ADDRESS)
        claims = await store.claim(FIRST, BOOT, [MAYOR.agent, POLECAT.agent])

        assert [SECRETIVE.env_vars, {"KILOCODE_TOKEN": SECRET}] == [
            agent.spec and agent.spec.env_vars for agent, _ in claims
        ]
        assert ENTRY == claims[1][0].entry_json
        found = await dump(redis)
        assert SECRET.encode() not in found
        assert b"Begin." not in found


async def test_an_unchanged_list_changes_nothing(redis, keys):
    """Sealed or not, the same list twice is one write."""
    async with serving(redis, StoredSpecs(keys)) as store:
        await store.replace_agents(TOWN, entries(ENTRY))
        before = (await store.get_agent(POLECAT)).etag

        await store.replace_agents(TOWN, entries(ENTRY))

        assert before == (await store.get_agent(POLECAT)).etag


async def test_old_clear_records_are_read_and_sealed_at_the_next_write(redis, keys):
    """The same spec again is enough; a list seals its entries."""
    async with serving(redis, StoredSpecs()) as store:
        await store.register_agent(MAYOR, SECRETIVE)
        await store.replace_agents(TOWN, entries(ENTRY))
    assert SECRET.encode() in await dump(redis)

    async with serving(redis, StoredSpecs(keys)) as store:
        assert SECRETIVE == (await store.get_agent(MAYOR)).spec
        assert ENTRY == (await store.get_agent(POLECAT)).entry_json

        await store.register_agent(MAYOR, SECRETIVE)
        await store.replace_agents(TOWN, entries(ENTRY))

        assert SECRETIVE == (await store.get_agent(MAYOR)).spec
        assert ENTRY == (await store.get_agent(POLECAT)).entry_json
    assert SECRET.encode() not in await dump(redis)


@pytest.mark.parametrize("how", ["register", "replace"])
async def test_a_new_key_seals_at_the_next_write(redis, keys, tmp_path, how):
    """Without a change of the record: it says what it said."""
    async with serving(redis, StoredSpecs(keys)) as store:
        first = await store.register_agent(MAYOR, SECRETIVE)
        kid = rotate_sealing(tmp_path)
        keys._look()
        if how == "register":
            again = await store.register_agent(MAYOR, SECRETIVE)
        else:
            again = await store.replace_spec(MAYOR, SECRETIVE, first.etag)

        assert (first.etag, SECRETIVE) == (again.etag, again.spec)
        (stored,) = await redis.execute_command("HVALS", SPECS)
        assert stored[1:].startswith(kid.encode())


async def test_an_entry_stays_while_it_means_the_same(redis, keys, tmp_path):
    """Also when it was sealed with another key than the one that seals now."""
    async with serving(redis, StoredSpecs(keys)) as store:
        await store.replace_agents(TOWN, entries(ENTRY))
        spec = (await store.get_agent(POLECAT)).spec
        assert spec is not None
        rotate_sealing(tmp_path)
        keys._look()

        agent = await store.register_agent(POLECAT, spec)

        assert ENTRY == agent.entry_json


async def test_a_repeated_request_is_known_over_a_rotation(redis, keys, tmp_path):
    """It answers as it did at first."""
    async with serving(redis, StoredSpecs(keys)) as store:
        first = await store.register_agent(MAYOR, SECRETIVE, request_id="r-1")
        rotate_sealing(tmp_path)
        keys._look()

        again = await store.register_agent(MAYOR, SECRETIVE, request_id="r-1")

        assert (first.etag, first.spec) == (again.etag, again.spec)


async def test_another_agents_seal_does_not_open(redis, keys):
    """Whoever moves records in Redis gives nobody another one's secrets: a list tells
    which cannot be read, and the others; a claim that names it is refused."""
    async with serving(redis, StoredSpecs(keys)) as store:
        await store.register_agent(MAYOR, SECRETIVE)
        await store.register_agent(POLECAT, SPEC)
        stolen = await redis.execute_command("HGET", SPECS, MAYOR.agent)
        await redis.execute_command("HSET", SPECS, POLECAT.agent, stolen)

        listed = (await store.list_agents(TOWN)).agents
        assert [SECRETIVE, None] == [agent.spec for agent in listed]
        assert "was changed or moved" in listed[1].last_error
        changed = [step.changed for step in (await store.read_changes(TOWN)).steps]
        assert None in [agent.spec for agent in changed if agent]
        await store.register_instance(FIRST, BOOT, ADDRESS)
        named = store.claim(FIRST, BOOT, [POLECAT.agent])
        for call in (store.get_agent(POLECAT), named):
            with pytest.raises(ServiceError) as refused:
                await call
            assert Reason.RECORD_CORRUPT is refused.value.reason
            assert SECRET not in refused.value.message

        await store.register_agent(POLECAT, replace(SPEC, model="kilo/new"))
        spec = (await store.get_agent(POLECAT)).spec
        assert spec is not None
        assert "kilo/new" == spec.model


async def test_a_claim_leaves_out_what_does_not_open(redis, keys):
    """Others are had all the same; the lease is given back, until the next boot."""
    async with serving(redis, StoredSpecs(keys)) as store:
        await store.register_agent(MAYOR, SECRETIVE)
        await store.register_agent(POLECAT, SPEC)
        stolen = await redis.execute_command("HGET", SPECS, MAYOR.agent)
        await redis.execute_command("HSET", SPECS, POLECAT.agent, stolen)
        await store.register_instance(FIRST, BOOT, ADDRESS)

        for _ in range(2):
            claims = await store.claim(FIRST, BOOT)
            assert [MAYOR] == [agent.name for agent, _ in claims]

        lease = (await store.list_agents(TOWN)).agents[1].lease
        assert lease is not None
        assert ("", 1) == (lease.instance, lease.epoch)


async def test_what_is_handed_on_and_does_not_open_is_given_back(redis, keys):
    """Its heir never ran it."""
    async with serving(redis, StoredSpecs(keys)) as store:
        await store.register_agent(POLECAT, SPEC)
        await store.register_instance(FIRST, BOOT, ADDRESS)
        await store.claim(FIRST, BOOT)
        heir = InstanceName(TOWN, "heir")
        await store.register_instance(heir, BOOT, ADDRESS)
        await store.heartbeat(FIRST, BOOT, leaving=True)
        await store.release(FIRST, BOOT, [Release(POLECAT.agent, 1)])
        await redis.execute_command("HSET", SPECS, POLECAT.agent, b"sbroken")

        assert [] == await store.claim(heir, BOOT)

        lease = (await store.list_agents(TOWN)).agents[0].lease
        assert lease is not None
        assert ("", 2) == (lease.instance, lease.epoch)


async def test_a_claim_keeps_what_ran_before_it_was_broken(redis, keys):
    """It may run there yet: only new leases are given back."""
    async with serving(redis, StoredSpecs(keys)) as store:
        await store.register_agent(POLECAT, SPEC)
        await store.register_instance(FIRST, BOOT, ADDRESS)
        await store.claim(FIRST, BOOT)
        await redis.execute_command("HSET", SPECS, POLECAT.agent, b"sbroken")

        assert [] == await store.claim(FIRST, BOOT)

        lease = (await store.list_agents(TOWN)).agents[0].lease
        assert lease is not None
        assert FIRST.instance == lease.instance


async def test_off_it_opens_and_seals_nothing(redis, keys):
    """What an operator chose to hold in clear is; what was sealed before is read."""
    async with serving(redis, StoredSpecs(keys)) as store:
        await store.register_agent(MAYOR, SECRETIVE)
    async with serving(redis, StoredSpecs(keys, seals=False)) as store:
        assert SECRETIVE == (await store.get_agent(MAYOR)).spec
        await store.register_agent(POLECAT, SECRETIVE)
    async with serving(redis, StoredSpecs()) as store:
        assert SECRETIVE == (await store.get_agent(POLECAT)).spec
        with pytest.raises(ServiceError) as refused:
            await store.get_agent(MAYOR)
        assert Reason.KEYS_UNAVAILABLE is refused.value.reason
