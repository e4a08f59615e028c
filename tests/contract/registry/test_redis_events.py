"""The event log outlives the Redis that it was written to."""

from __future__ import annotations

import pytest

from services.chassis.redis_pool import connect
from services.registry.redis_store import opened
from tests.support.redis_server import ValkeyProcess
from tests.support.registry_samples import MAYOR, SPEC

pytestmark = pytest.mark.redis


@pytest.fixture
def mortal(tmp_path):
    """A Valkey of its own, to be killed."""
    with ValkeyProcess(tmp_path) as server:
        yield server


async def test_a_log_goes_on_after_a_kill(mortal: ValkeyProcess):
    """With all that was acknowledged, and with ids that rise."""
    redis = await connect(mortal.url)
    async with opened(redis, environment="tests") as store:
        await store.register_agent(MAYOR, SPEC)
        for number in range(3):
            await store.append_event(MAYOR, "x", str(number))
    await redis.aclose()
    mortal.kill()
    mortal.restart()

    redis = await connect(mortal.url)
    async with opened(redis, environment="tests") as store:
        again = await store.append_event(MAYOR, "x", "3")
        page = await store.list_events(MAYOR, after=1)
    await redis.aclose()

    assert 4 == again.id
    assert ["1", "2", "3"] == [event.data_json for event in page.events]
