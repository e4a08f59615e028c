"""What was revoked as it lies in Redis: entries that cost little, however many there
are, and lists as they once were."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from services.chassis.errors import Reason, ServiceError
from services.chassis.names import AgentName
from services.chassis.redis_pool import Store, connect
from services.registry.redis_revocations import PREFIX
from services.registry.redis_store import opened
from services.registry.revocations import Revocation, Revoked
from services.registry.store import RegistryStore
from tests.support.redis_server import ValkeyProcess
from tests.support.registry_samples import MAYOR, POLECAT
from tests.support.registry_time import RedisTime
from tests.support.tokens import TOWN

pytestmark = pytest.mark.redis

HOUR = timedelta(hours=1)
NAMES = [AgentName(TOWN, f"a-{number:03}") for number in range(200)]
OLD = f"{PREFIX}revoked"
CURRENT = f"{PREFIX}current_runs:{TOWN}"


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


@pytest.mark.parametrize("what", ["begins", "replaces another", "is revoked"])
async def test_a_run_writes_as_much_in_a_large_town(redis, store, what):
    """A town of thousands starts or stops at once: what all of them write must not
    grow by its square."""
    if what == "replaces another":
        for name in NAMES:
            await store.begin_run(name, 1, "run-1", HOUR)

    async def written_bytes(names: list[AgentName]) -> int:
        """By how much the append-only file grows."""
        sizes = [(await redis.info("persistence"))["aof_current_size"]]
        for name in names:
            if what == "is revoked":
                await store.revoke(TOWN, Revocation((), (f"{name.agent}/run-2",)))
            else:
                await store.begin_run(name, 1, "run-2", HOUR)
        sizes.append((await redis.info("persistence"))["aof_current_size"])
        return int(sizes[1] - sizes[0])

    first = await written_bytes(NAMES[:20])
    await written_bytes(NAMES[20:-20])

    assert await written_bytes(NAMES[-20:]) < 1.5 * first


async def test_what_is_known_of_runs_goes_with_their_tokens(redis, store):
    """However many there were: nobody asks for them by name again."""
    time = RedisTime(redis, TOWN)
    await store.begin_run(MAYOR, 1, "run-1", HOUR)
    await store.begin_run(POLECAT, 1, "run-1", 2 * HOUR)

    left = []
    for _ in range(2):
        await time.passes(3601)
        await store.revocations()
        left.append(await redis.execute_command("HKEYS", CURRENT))

    assert [[POLECAT.agent.encode()], []] == left
    assert 0 == await redis.execute_command("ZCARD", f"{PREFIX}current_runs_due")


async def test_lists_of_old_are_read(redis, store):
    """Each was one text once, with the runs that agents had in it."""
    later = round(datetime.now(UTC).timestamp() * 1000) + 3_600_000
    run = {"run": "run-1", "epoch": 2, "forget": later}
    await redis.hset(
        OLD,
        TOWN,
        json.dumps(
            {
                "generation": 7,
                "forget": later,
                "tokens": {"a": later},
                "runs": {"ada/run-1": later},
                "current": {MAYOR.agent: run},
            }
        ),
    )
    await redis.execute_command("ZADD", f"{OLD}_changes", 3, TOWN)
    await redis.execute_command("ZADD", f"{OLD}_due", later, TOWN)
    await redis.set(f"{OLD}_revision", 3)

    found = (await store.revocations()).towns
    with pytest.raises(ServiceError) as refused:
        await store.begin_run(MAYOR, 1, "run-2", HOUR)
    await store.begin_run(MAYOR, 2, "run-2", HOUR)

    assert {TOWN: Revoked(frozenset("a"), frozenset({"ada/run-1"}), 7)} == dict(found)
    assert Reason.LEASE_FENCED is refused.value.reason
    runs = (await store.revocations(3)).towns[TOWN].runs
    assert {"ada/run-1", f"{MAYOR.agent}/run-1"} == runs
    assert 0 == await redis.execute_command("EXISTS", OLD)
