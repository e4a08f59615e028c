"""The log of changes as it lies in Redis: bounded, cheap, and there for old towns."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from services.chassis.names import AgentName
from services.chassis.redis_pool import Store, connect
from services.registry.changes import PAGE_BYTES_MAX, Changes
from services.registry.redis_store import opened
from services.registry.redis_town import TOWN_KEYS, Terms, channel, town_keys
from services.registry.store import RegistryStore
from tests.support.redis_commands import Commands
from tests.support.redis_server import ValkeyProcess
from tests.support.registry_samples import (
    ADDRESS,
    BOOT,
    FIRST,
    OTHER_SPEC,
    SPEC,
    entries,
    entry_json,
    message,
)
from tests.support.registry_watch import told
from tests.support.tokens import TOWN

pytestmark = pytest.mark.redis

KEYS = dict(zip(TOWN_KEYS, town_keys(TOWN), strict=True))
NAMES = [AgentName(TOWN, f"a-{n}") for n in range(20)]


@pytest.fixture
async def redis(valkey: ValkeyProcess) -> AsyncIterator[Store]:
    valkey.flush()
    redis = await connect(valkey.url)
    yield redis
    await redis.aclose()


@pytest.fixture
async def store(redis: Store) -> AsyncIterator[RegistryStore]:
    async with opened(redis, environment="tests", terms=Terms(gone_kept=5)) as store:
        yield store


async def pages(store: RegistryStore) -> list[Changes]:
    found = [await store.read_changes(TOWN)]
    while not found[-1].complete:
        found.append(await store.read_changes(TOWN, found[-1].end))
    return found


async def test_the_log_is_bounded_by_the_agents_and_those_remembered(redis, store):
    """Whatever comes, changes and goes, it does not grow."""
    for name in NAMES:
        await store.register_agent(name, SPEC)
        await store.register_agent(name, OTHER_SPEC)
    for name in NAMES[:15]:
        await store.deregister_agent(name)

    assert 5 == await redis.execute_command("ZCARD", KEYS["changes"])
    assert 5 == await redis.execute_command("ZCARD", KEYS["gone"])
    assert {b"compacted": b"50"} == await redis.hgetall(KEYS["watch"])


async def test_a_town_older_than_its_log_gets_one(redis, store):
    """From the revisions that its records have; what changes then is logged."""
    for name in NAMES[:3]:
        await store.register_agent(name, SPEC)
    await store.register_agent(NAMES[0], OTHER_SPEC)
    for key in ("changes", "gone", "watch"):
        await redis.execute_command("DEL", KEYS[key])
    await store.enqueue(message("m-1", NAMES[2]), "Hello")

    listed = await store.read_changes(TOWN)
    await store.deregister_agent(NAMES[1])

    assert ["a-1", "a-0", "a-2"] == told(list(listed.steps))
    assert [2, 4, 5] == [step.position.revision for step in listed.steps]
    assert ["-a-1"] == told(list((await store.read_changes(TOWN, listed.end)).steps))


async def test_a_first_watch_reads_nothing_of_a_town_whole(valkey, store):
    """Its log was kept all along, and nobody was told yet who lives."""
    for name in NAMES:
        await store.register_agent(name, SPEC)
    await store.register_instance(FIRST, BOOT, ADDRESS)
    await store.claim(FIRST, BOOT)

    with Commands(valkey) as seen:
        listed = await store.read_changes(TOWN)

    assert {*NAMES} == {step.name for step in listed.steps}
    whole = {one.key for one in seen.whole_reads if one.entries}
    assert {KEYS["instances"].decode()} == whole


async def test_a_page_is_small_whatever_the_records_are(store):
    """A record that is larger comes alone."""
    small = replace(SPEC, prompt="x" * 5_000)
    for name in NAMES:
        await store.register_agent(name, small)
    await store.register_agent(
        AgentName(TOWN, "large"), replace(SPEC, prompt="x" * 200_000)
    )

    found = await pages(store)

    sizes = [sum(step.size_bytes for step in page.steps) for page in found]
    assert all(size < PAGE_BYTES_MAX for size in sizes[:-1])
    assert [1, True] == [len(found[-1].steps), sizes[-1] > PAGE_BYTES_MAX]
    assert [*map(str, NAMES)] == [str(s.name) for p in found[:-1] for s in p.steps]


async def test_a_script_tells_of_all_its_changes_at_once(redis, store):
    """A list of twenty is one word to those who watch."""
    async with redis.pubsub() as listener:
        await listener.subscribe(channel(TOWN, "changes"))
        assert "subscribe" == (await listener.get_message(timeout=5))["type"]

        written = entries(*(entry_json(name.agent) for name in NAMES))
        await store.replace_agents(TOWN, written)
        await store.deregister_agent(AgentName(TOWN, "a-0"), "")

        heard: list[Any] = []
        async with asyncio.timeout(5):
            while len(heard) < 2:
                heard.append(await listener.get_message(timeout=5))
        assert ["message", "message"] == [one["type"] for one in heard]
        assert await listener.get_message(timeout=0.05) is None


async def test_a_new_connection_is_a_reason_to_look(store):
    """What was told while it was broken, nobody heard."""
    with store.nudges(TOWN) as nudge:
        store._hints._take({"type": "psubscribe"})

        assert nudge.is_set()
