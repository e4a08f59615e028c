"""Catalogs: the fake and Redis by one suite, and what only Redis has to hold."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.chassis.errors import Reason
from services.chassis.redis_pool import Durability, connect
from services.snapshots.generations import AgentState, Claim
from services.snapshots.redis_catalog import RedisCatalog
from services.snapshots.redis_values import UPLOAD_IDS_MAX
from services.snapshots.store import RECORDS_KEPT, Known
from tests.contract.snapshots.catalog_suite import OWNER, CatalogSuite, commit, reason
from tests.contract.snapshots.history_suite import HistorySuite
from tests.fakes.snapshot_catalog import MemoryCatalog
from tests.support.redis_rights import SNAPSHOTS, url
from tests.support.redis_server import ValkeyProcess
from tests.support.snapshot_values import INSTANCE, NAME, content, snapshot
from tests.support.tokens import TOWN


class TestMemoryCatalog(CatalogSuite, HistorySuite):
    @pytest.fixture
    def catalog(self) -> MemoryCatalog:
        return MemoryCatalog()


@pytest.mark.redis
class TestRedisCatalog(CatalogSuite, HistorySuite):
    @pytest.fixture
    async def catalog(self, valkey: ValkeyProcess) -> AsyncIterator[RedisCatalog]:
        store = await connect(url(valkey, SNAPSHOTS))
        yield RedisCatalog(store, Durability(store))
        await store.aclose()

    async def test_forgets_the_oldest_upload_ids(self, catalog: RedisCatalog) -> None:
        """An agent's ids take a bounded place."""
        made = [snapshot(n) for n in range(1, UPLOAD_IDS_MAX + 2)]
        for each in made:
            await commit(catalog, each, Claim())

        _, oldest = await catalog.look(NAME, made[0].origin.upload_id)
        _, second = await catalog.look(NAME, made[1].origin.upload_id)

        assert oldest is None
        assert Known(NAME.agent, 2) == second

    async def test_keys_lie_in_one_slot(
        self, catalog: RedisCatalog, valkey: ValkeyProcess
    ) -> None:
        """All keys of a town carry its hash tag, so scripts run on a cluster."""
        await catalog.advance(NAME, OWNER)
        await commit(catalog, snapshot(1))

        store = await connect(valkey.url)
        keys = sorted([key.decode() async for key in store.scan_iter()])
        await store.aclose()

        tag = f"tk:snapshots:{{{TOWN}}}:"
        assert ["tk:snapshots:towns"] == [k for k in keys if not k.startswith(tag)]
        assert 7 == len(keys)

    async def test_takes_little_room(
        self, catalog: RedisCatalog, valkey: ValkeyProcess
    ) -> None:
        """An agent with the longest chains and a full window stays below 1 MiB."""
        source = random.Random(1)
        for n in range(1, 1201):
            deltas = source.randrange(17)
            await commit(catalog, snapshot(n, content=content(deltas)), Claim())
        kept = RECORDS_KEPT + RECORDS_KEPT // 2
        await catalog.trim(NAME, list(await catalog.recent(NAME))[:-kept])

        store = await connect(valkey.url)
        sizes = [
            await store.memory_usage(key, samples=0) async for key in store.scan_iter()
        ]
        await store.aclose()

        assert sum(size or 0 for size in sizes) < 1 << 20

    async def test_pairs_with_one_blob_store(self, catalog: RedisCatalog) -> None:
        """A Redis that belongs to another blob store is not swept by this one."""
        await catalog.pair("store-1")
        await catalog.pair("store-1")

        assert Reason.STORE_FOREIGN is await reason(catalog.pair("store-2"))

    async def test_refuses_a_careless_redis(self, tmp_path: Path) -> None:
        """Where acknowledged writes can be lost, nothing is written at all."""
        with ValkeyProcess(tmp_path, appendfsync="everysec") as careless:
            store = await connect(careless.url)
            catalog = RedisCatalog(store, Durability(store))

            assert Reason.NOT_DURABLE is await reason(catalog.advance(NAME, OWNER))
            assert Reason.NOT_DURABLE is await reason(
                catalog.commit(snapshot(1), Claim(), None)
            )
            assert Reason.NOT_DURABLE is await reason(catalog.check())
            assert (AgentState(), None) == await catalog.look(NAME)
            await store.aclose()

    async def test_waits_for_replicas(self, tmp_path: Path) -> None:
        """With too few replicas a commit is not called durable; its id finds it."""
        with ValkeyProcess(tmp_path) as alone:
            store = await connect(alone.url)
            catalog = RedisCatalog(store, Durability(store), replicas=1)
            made = snapshot(1)

            refused = await reason(catalog.commit(made, Claim(), None))
            repeated = await reason(catalog.settle(NAME))

            _, known = await catalog.look(NAME, made.origin.upload_id)
            assert [Reason.NOT_DURABLE] * 2 == [refused, repeated]
            assert Known(NAME.agent, 1) == known
            await store.aclose()

    async def test_survives_a_kill(self, tmp_path: Path) -> None:
        """What was acknowledged is there when Redis comes back from SIGKILL."""
        with ValkeyProcess(tmp_path) as own:
            store = await connect(own.url)
            catalog = RedisCatalog(store, Durability(store))
            await catalog.advance(NAME, OWNER)
            for n in range(1, 21):
                await commit(catalog, snapshot(n))
            await asyncio.to_thread(own.restart)

            state, _ = await catalog.look(NAME)

            assert (20, INSTANCE) == (state.last, state.instance)
            await store.aclose()
