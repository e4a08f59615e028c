"""What an agent takes in Redis that is saved each second for a day."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.chassis.redis_pool import Durability, Store, connect
from services.snapshots.assembly import assemble
from services.snapshots.compaction import SEGMENTS_MAX
from services.snapshots.file_staging import FileStaging
from services.snapshots.generations import Claim
from services.snapshots.redis_catalog import RedisCatalog
from services.snapshots.upkeep import OneProcess
from tests.fakes.blob_store import MemoryBlobs
from tests.fakes.rot_log import MemoryRotLog
from tests.support.clock import ManualClock
from tests.support.redis_server import ValkeyProcess
from tests.support.snapshot_values import NAME, content, snapshot

pytestmark = pytest.mark.redis

DAY_S = 86_400
# Saved one by one with real rounds; what came before is as earlier rounds leave it.
LAST_S = 12 * 60
MIB = 1 << 20


@pytest.fixture
async def store(valkey: ValkeyProcess) -> AsyncIterator[Store]:
    store = await connect(valkey.url)
    yield store
    await store.aclose()


async def room(store: Store) -> int:
    """Bytes of all keys."""
    sizes = [
        await store.memory_usage(key, samples=0) async for key in store.scan_iter()
    ]
    return sum(size or 0 for size in sizes)


@pytest.mark.timeout(300)
async def test_stays_below_a_mebibyte(store: Store, tmp_path: Path) -> None:
    """One generation of each minute of the day and all of the last ten minutes are
    listed; records beyond the newest are left to the blob store."""
    catalog, clock = RedisCatalog(store, Durability(store)), ManualClock()
    blobs = MemoryBlobs(tmp_path)
    staging, scratch = FileStaging(tmp_path, clock), lambda: tmp_path / "scratch"
    parts = assemble(
        blobs,
        catalog,
        staging,
        OneProcess(),
        MemoryRotLog(),
        scratch,
        clock,
        size_bytes_max=1,
    )
    source = random.Random(1)
    begun = DAY_S - LAST_S
    await catalog.adopt(NAME, [snapshot(n) for n in range(60, begun + 1, 60)])
    clock.advance(begun)
    state, _ = await catalog.look(NAME)

    for second in range(begun + 1, DAY_S + 1):
        clock.advance(1)
        held = content(deltas=source.randrange(2, SEGMENTS_MAX + 3))
        made = snapshot(second, content=held)
        assert await catalog.commit(made, Claim(1), None, state.revision)
        parts.sweeper.note_written(made)
        if second % 60 == 0:
            await parts.sweeper.sweep()

    kept = len(await catalog.entries(NAME))
    assert 1430 + 600 <= kept <= 1430 + 600 + 2
    taken = await room(store)
    assert taken < MIB
