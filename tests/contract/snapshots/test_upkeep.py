"""What replicas that share a store agree on: whose turn it is, what may be removed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.chassis.errors import Reason, ServiceError
from services.chassis.redis_pool import Durability, Store, connect
from services.snapshots import records
from services.snapshots.collection import collect
from services.snapshots.generations import Claim
from services.snapshots.pins import Pins
from services.snapshots.redis_upkeep import TRASHED_FOR, TURN_S, RedisUpkeep
from tests.fakes.blob_store import MemoryBlobs
from tests.fakes.snapshot_catalog import MemoryCatalog
from tests.support.clock import ManualClock
from tests.support.redis_rights import SNAPSHOTS, url
from tests.support.redis_server import ValkeyProcess
from tests.support.snapshot_values import NAME, content, segment, snapshot
from tests.support.tokens import TOWN
from tests.support.waiting import wait_until

pytestmark = pytest.mark.redis

DAY_S = TRASHED_FOR.total_seconds()
LOST = segment("lost")
KEPT = snapshot(1)
[NAMED] = KEPT.content.segments


class Replica:
    """One of several over the same stores."""

    def __init__(self, plant: Plant, renew_every_s: float) -> None:
        self._plant = plant
        durability = Durability(plant.redis, vouched=True)
        self.upkeep = RedisUpkeep(
            plant.redis, durability, plant.clock, renew_every_s=renew_every_s
        )
        self.pins = Pins(self.upkeep)

    async def collect(self) -> int:
        async with self.upkeep.turn(TOWN) as turn:
            assert turn
            return await self.collect_as(turn)

    async def collect_as(self, turn: str) -> int:
        plant = self._plant
        return await collect(
            TOWN, plant.catalog, plant.blobs, self.pins, self.upkeep, turn
        )


class Plant:
    def __init__(self, redis: Store, by_hand: Store, folder: Path) -> None:
        # As the service's user, and as one who may do everything.
        self.redis, self.by_hand = redis, by_hand
        self.clock = ManualClock()
        self.blobs = MemoryBlobs(folder)
        self.catalog = MemoryCatalog()

    def replica(self, renew_every_s: float = TURN_S) -> Replica:
        return Replica(self, renew_every_s)

    def has(self, digest: bytes) -> bool:
        return records.segment_key(TOWN, digest) in self.blobs.blobs

    def store(self, digest: bytes) -> None:
        self.blobs.blobs[records.segment_key(TOWN, digest)] = b"data"


@pytest.fixture
async def plant(valkey: ValkeyProcess, tmp_path: Path) -> AsyncIterator[Plant]:
    """A town with one generation, and one segment that no record names."""
    redis = await connect(url(valkey, SNAPSHOTS))
    by_hand = await connect(valkey.url)
    plant = Plant(redis, by_hand, tmp_path)
    plant.store(NAMED.blake3)
    plant.store(LOST.blake3)
    await plant.catalog.commit(KEPT, Claim(), None)
    yield plant
    await redis.aclose()
    await by_hand.aclose()


class TestTurns:
    async def test_one_replica_at_a_time(self, plant: Plant) -> None:
        """While one replica cleans a town no other one does; afterwards it may, and
        another town it may any time."""
        first, second = plant.replica().upkeep, plant.replica().upkeep

        async with (
            first.turn(TOWN) as mine,
            second.turn(TOWN) as other,
            second.turn("elsewhere") as elsewhere,
        ):
            assert (True, "", True) == (bool(mine), other, bool(elsewhere))

        async with second.turn(TOWN) as later:
            assert later

    async def test_each_work_has_its_turn(self, plant: Plant) -> None:
        """Reading all of a town again keeps nobody from cleaning it."""
        one, other = plant.replica().upkeep, plant.replica().upkeep
        async with (
            one.turn(TOWN, "scrub-turn") as first,
            other.turn(TOWN, "scrub-turn") as second,
            other.turn(TOWN) as third,
        ):
            assert (True, False, True) == (bool(first), bool(second), bool(third))

    async def test_a_long_turn_is_renewed(self, plant: Plant) -> None:
        """A turn does not end while its replica is at work."""
        key = f"tk:snapshots:{{{TOWN}}}:turn"
        half_ms = round(TURN_S * 500)
        async with plant.replica(renew_every_s=0.01).upkeep.turn(TOWN):
            await plant.by_hand.pexpire(key, half_ms)

            async def renewed() -> bool:
                return bool(await plant.by_hand.pttl(key) > half_ms)

            await wait_until(renewed)

    async def test_a_dead_replica_loses_its_turn(self, plant: Plant) -> None:
        """A turn that nobody renews is over, and then condemns nothing."""
        dead, other = plant.replica(), plant.replica()
        await dead.collect()
        plant.clock.advance(DAY_S)
        async with dead.upkeep.turn(TOWN) as turn:
            await plant.by_hand.delete(f"tk:snapshots:{{{TOWN}}}:turn")
            async with other.upkeep.turn(TOWN) as taken:
                assert taken

                assert 0 == await dead.collect_as(turn)

                assert plant.has(LOST.blake3)
                assert 1 == await other.collect_as(taken)


class TestTrash:
    async def test_a_day_passes_before_anything_goes(self, plant: Plant) -> None:
        """What no record names stays for a day, whichever replica looks; what one
        names stays for ever."""
        assert 0 == await plant.replica().collect()
        plant.clock.advance(DAY_S - 1)
        assert 0 == await plant.replica().collect()
        assert plant.has(LOST.blake3)

        plant.clock.advance(1)

        assert 1 == await plant.replica().collect()
        assert not plant.has(LOST.blake3)
        assert plant.has(NAMED.blake3)

    @pytest.mark.parametrize("how", ["named again", "spared"])
    async def test_coming_back_starts_the_day_again(
        self, plant: Plant, how: str
    ) -> None:
        """A segment that was needed meanwhile is not removed for its earlier rest."""
        await plant.replica().collect()
        plant.clock.advance(DAY_S)
        if how == "named again":
            again = snapshot(2, content=content(segments=(LOST,)))
            await plant.catalog.commit(again, Claim(), None)
            await plant.replica().collect()
            await plant.catalog.commit(snapshot(3), Claim(), None)
            await plant.catalog.drop(NAME, [2])
        else:
            await plant.replica().upkeep.spare(TOWN, [LOST.blake3])

        assert 0 == await plant.replica().collect()
        plant.clock.advance(DAY_S - 1)
        assert 0 == await plant.replica().collect()

        assert plant.has(LOST.blake3)

    async def test_a_commit_at_another_replica_is_safe(self, plant: Plant) -> None:
        """A segment that another replica is about to name, after the records were read
        and before it would be removed, stays."""
        cleaning, committing = plant.replica(), plant.replica()
        await cleaning.collect()
        plant.clock.advance(DAY_S)
        async with cleaning.upkeep.turn(TOWN) as turn:
            [due] = await cleaning.upkeep.due(TOWN, [NAMED.blake3], [LOST.blake3])
            async with committing.pins.holding(TOWN, [due]):
                assert not await cleaning.upkeep.condemn(TOWN, turn, due)

    async def test_what_is_being_removed_cannot_be_named(self, plant: Plant) -> None:
        """Between condemned and removed a segment cannot be committed; then it can."""
        cleaning, committing = plant.replica(), plant.replica()
        await cleaning.collect()
        plant.clock.advance(DAY_S)
        async with cleaning.upkeep.turn(TOWN) as turn:
            assert await cleaning.upkeep.condemn(TOWN, turn, LOST.blake3)
            with pytest.raises(ServiceError) as refused:
                async with committing.pins.holding(TOWN, [LOST.blake3]):
                    raise AssertionError("unreachable")
            await cleaning.upkeep.removed(TOWN, LOST.blake3)

        assert Reason.STORE_UNAVAILABLE is refused.value.reason
        async with committing.pins.holding(TOWN, [LOST.blake3]):
            pass

    @pytest.mark.parametrize("deleted", [False, True])
    async def test_a_removal_that_was_cut_off(
        self, plant: Plant, deleted: bool
    ) -> None:
        """A replica that dies while it removes a segment leaves it condemned for a
        day; then it is removed, or its name is free."""
        dead = plant.replica()
        await dead.collect()
        plant.clock.advance(DAY_S)
        async with dead.upkeep.turn(TOWN) as turn:
            assert await dead.upkeep.condemn(TOWN, turn, LOST.blake3)
        if deleted:
            del plant.blobs.blobs[records.segment_key(TOWN, LOST.blake3)]
        plant.clock.advance(DAY_S - 1)
        assert 0 == await plant.replica().collect()
        with pytest.raises(ServiceError):
            await plant.replica().upkeep.spare(TOWN, [LOST.blake3])

        plant.clock.advance(1)

        assert int(not deleted) == await plant.replica().collect()
        await plant.replica().upkeep.spare(TOWN, [LOST.blake3])
        assert not plant.has(LOST.blake3)

    async def test_a_removal_on_its_way_is_not_called_off(self, plant: Plant) -> None:
        """Whoever only tried to use a condemned segment does not free its name."""
        removing, trying = plant.replica(), plant.replica()
        await removing.collect()
        plant.clock.advance(DAY_S)
        async with removing.upkeep.turn(TOWN) as turn:
            assert await removing.upkeep.condemn(TOWN, turn, LOST.blake3)

        assert [] == list(await trying.upkeep.due(TOWN, {LOST.blake3}, set()))

        with pytest.raises(ServiceError):
            await trying.upkeep.spare(TOWN, [LOST.blake3])

    async def test_readers_here_are_waited_for(self, plant: Plant) -> None:
        """A segment that this replica reads is not condemned at all."""
        replica = plant.replica()
        await replica.collect()
        async with replica.pins.holding(TOWN, [LOST.blake3]):
            plant.clock.advance(DAY_S)
            assert 0 == await replica.collect()

        assert plant.has(LOST.blake3)
