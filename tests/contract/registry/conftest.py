"""The store twice, in memory and over a real Valkey; and the calls over a port."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from services.chassis.redis_pool import connect
from services.chassis.sealing import SealingKeys
from services.registry.event_log import LogBounds
from services.registry.redis_specs import StoredSpecs
from services.registry.redis_store import opened
from services.registry.redis_town import Terms
from services.registry.store import RegistryStore
from tests.fakes.registry_store import MemoryStore
from tests.support.clock import ManualClock
from tests.support.redis_rights import REGISTRY, acl_file, url
from tests.support.redis_server import ValkeyProcess
from tests.support.registry_server import Registry, serving
from tests.support.registry_time import ClockTime, RedisTime, Time
from tests.support.tokens import TOWN

# Few, so that a test can go beyond what is remembered.
GONE_KEPT = 3
EVENT_LOG = LogBounds(events=5, size_bytes=50_000)


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyProcess]:
    folder = tmp_path_factory.mktemp("registry")
    with ValkeyProcess(folder, aclfile=acl_file(folder)) as server:
        yield server


@pytest.fixture(scope="session")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> StoredSpecs:
    """As production stores: nothing in clear."""
    return StoredSpecs(SealingKeys.create(tmp_path_factory.mktemp("sealing")))


@asynccontextmanager
async def _in_memory() -> AsyncIterator[tuple[RegistryStore, Time]]:
    clock = ManualClock()
    store = MemoryStore(clock, gone_kept=GONE_KEPT, event_log=EVENT_LOG)
    yield store, ClockTime(clock)


@asynccontextmanager
async def _in_valkey(
    valkey: ValkeyProcess, sealed: StoredSpecs
) -> AsyncIterator[tuple[RegistryStore, Time]]:
    valkey.flush()
    # As the user that production gives us; tests themselves may do more.
    redis = await connect(url(valkey, REGISTRY))
    all_may = await connect(valkey.url)
    try:
        terms = Terms(gone_kept=GONE_KEPT, event_log=EVENT_LOG)
        async with opened(
            redis, environment="tests", terms=terms, specs=sealed
        ) as store:
            yield store, RedisTime(all_may, TOWN)
    finally:
        await redis.aclose()
        await all_may.aclose()


@pytest.fixture(
    params=[
        pytest.param("memory", id="memory"),
        pytest.param("valkey", id="valkey", marks=pytest.mark.redis),
    ]
)
async def stage(
    request: pytest.FixtureRequest,
) -> AsyncIterator[tuple[RegistryStore, Time]]:
    if request.param == "memory":
        made = _in_memory()
    else:
        made = _in_valkey(
            request.getfixturevalue("valkey"), request.getfixturevalue("sealed")
        )
    async with made as both:
        yield both


@pytest.fixture
def store(stage: tuple[RegistryStore, Time]) -> RegistryStore:
    return stage[0]


@pytest.fixture
def time(stage: tuple[RegistryStore, Time]) -> Time:
    return stage[1]


@pytest.fixture
async def registry(tmp_path: Path) -> AsyncIterator[Registry]:
    async with serving(tmp_path) as made:
        yield made


@pytest.fixture
def stub(registry: Registry) -> Any:
    return registry.stub()
