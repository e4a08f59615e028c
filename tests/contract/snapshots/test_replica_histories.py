"""Two replicas over the same stores: whatever meets whatever, nothing named is lost."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.chassis.names import AgentName
from services.chassis.redis_pool import Durability, Store, connect
from services.snapshots import records
from services.snapshots.assembly import Parts, assemble
from services.snapshots.compaction import SEGMENTS_MAX
from services.snapshots.downloads import Range
from services.snapshots.file_staging import FileStaging
from services.snapshots.redis_upkeep import TRASHED_FOR, RedisUpkeep
from services.snapshots.upload import Chunk
from tests.support import segments as made
from tests.support.redis_server import ValkeyProcess
from tests.support.snapshot_values import NAME
from tests.support.tokens import TOWN
from tests.unit.snapshots.test_compactor import Writer

pytestmark = [pytest.mark.redis, pytest.mark.timeout(120)]

ROUNDS = int(os.environ.get("ROUNDS") or 2)
SEED = int(os.environ.get("SEED") or 1)
STEPS = 60
# Longer than any generation is kept but a head.
KEPT_S = 400 * 86_400


class Pair:
    """Two replicas, and one agent that saves at either of them."""

    def __init__(self, redis: Store, folder: Path) -> None:
        self.writer = Writer(folder)
        self.plant = self.writer.plant
        numbers = itertools.count()
        self.replicas: list[Parts] = [
            assemble(
                self.plant.blobs,
                self.plant.catalog,
                FileStaging(folder / f"staging-{n}", self.plant.clock),
                RedisUpkeep(redis, Durability(redis, vouched=True), self.plant.clock),
                self.plant.rot_log,
                lambda: folder / f"replica-{next(numbers)}",
                self.plant.clock,
                size_bytes_max=1 << 20,
            )
            for n in range(2)
        ]
        self.forks: dict[AgentName, made.Image] = {}

    async def step(self, source: random.Random) -> None:
        """A save at one; the other compacts or cleans meanwhile, or both do."""
        self.writer.parts, other = source.sample(self.replicas, 2)
        work = [self.writer.edit()]
        if source.random() < 0.5:
            work.append(source.choice(self.replicas).sweeper.sweep(full=True))
        if source.random() < 0.3:
            work += [each.compactor._tried(NAME) for each in self.replicas]
        if source.random() < 0.2:
            work.append(self.fork(other))
        await asyncio.gather(*work)
        day_s = TRASHED_FOR.total_seconds()
        self.plant.clock.advance(source.choice([1, 1, 60, day_s / 2, day_s]))

    def stored(self) -> set[str]:
        return {key for key in self.plant.blobs.blobs if "/segments/" in key}

    async def named(self) -> set[str]:
        """By the heads, which are all that is left after a long time."""
        states = [await self.plant.catalog.look(each) for each in (NAME, *self.forks)]
        return {
            records.segment_key(TOWN, segment.blake3)
            for state, _ in states
            if state.head
            for segment in state.head.content.segments
        }

    async def fork(self, replica: Parts) -> None:
        head = await self.writer.head()
        target = AgentName(TOWN, f"fork-{len(self.forks)}")
        self.forks[target] = self.writer.images[head.generation - 1]
        await replica.forker.fork(NAME, head.generation, target, str(uuid.uuid4()))

    async def check(self) -> None:
        """Every generation that is listed and every fork, page by page."""
        reader = self.replicas[0]
        page = await reader.shelf.page(NAME, None, 500)
        wanted = {
            each.name: (each, self.writer.images[each.generation - 1])
            for each in page.snapshots
        }
        for target, image in self.forks.items():
            head = await reader.shelf.snapshot(target, 1)
            wanted[head.name] = (head, image)
        for name, (snapshot, image) in wanted.items():
            async with reader.downloads.file(snapshot, Range()) as parts:
                found = [part.data async for part in parts if isinstance(part, Chunk)]
            assert b"".join(image) == b"".join(found), name


@pytest.fixture
async def pair(valkey: ValkeyProcess, tmp_path: Path) -> AsyncIterator[Pair]:
    redis = await connect(valkey.url)
    yield Pair(redis, tmp_path)
    await redis.aclose()


@pytest.mark.parametrize("round_number", range(ROUNDS))
async def test_random_histories(pair: Pair, round_number: int) -> None:
    """Saves, compactions, forks, retention and collection at two replicas while days
    pass: all that is listed is what was saved, and what nobody names goes."""
    source = random.Random(SEED + round_number)
    await pair.writer.begin(400)
    for _ in range(STEPS):
        await pair.step(source)
    await pair.writer.compact()
    await pair.check()

    pair.plant.clock.advance(KEPT_S)
    for replica in pair.replicas:
        await replica.sweeper.sweep(full=True)
        pair.plant.clock.advance(TRASHED_FOR.total_seconds())

    await pair.check()
    assert SEGMENTS_MAX >= len(await pair.writer.chain())
    assert pair.forks
    assert await pair.named() == pair.stored()
