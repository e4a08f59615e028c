"""The sweep: repairs at the start, then thins, trims, expires and collects."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from services.chassis.errors import ServiceError
from services.chassis.names import AgentName
from services.snapshots import records
from services.snapshots.assembly import Parts, assemble
from services.snapshots.compaction import compacted
from services.snapshots.file_staging import FileStaging
from services.snapshots.generations import Claim, Deletion, Snapshot
from services.snapshots.sweep import SWEEP_ALL_EVERY_S
from services.snapshots.upkeep import CLEANING, OneProcess
from services.snapshots.upload import Body, Header
from tests.fakes.blob_store import MemoryBlobs
from tests.fakes.rot_log import MemoryRotLog
from tests.fakes.snapshot_catalog import MemoryCatalog
from tests.support.clock import ManualClock
from tests.support.faults import failing, failing_once
from tests.support.snapshot_values import NAME, at, content, segment, snapshot
from tests.support.tokens import TOWN
from tests.support.waiting import wait_until

DAY_S = 86_400
CLAIM = Claim(1, f"towns/{TOWN}/instances/container-1", "boot-1")

WEEK_S = 7 * 86_400.0


class Turns(OneProcess):
    """An Upkeep where another replica has the turn as long as a test says so."""

    def __init__(self) -> None:
        self.taken = False
        self.asked = 0

    @asynccontextmanager
    async def turn(self, town: str, work: str = CLEANING) -> AsyncIterator[str]:
        self.asked += 1
        yield "" if self.taken else "mine"


class Plant:
    """A service without a server, and a clock that moves when told."""

    def __init__(self, folder: Path, size_bytes_max: int = 1000) -> None:
        self.upkeep = Turns()
        self.clock = ManualClock()
        self.blobs = MemoryBlobs(folder)
        self.catalog = MemoryCatalog()
        self.rot_log = MemoryRotLog()
        self.staging = folder / "staging"
        numbers = itertools.count()
        self.parts: Parts = assemble(
            self.blobs,
            self.catalog,
            FileStaging(self.staging, self.clock),
            self.upkeep,
            self.rot_log,
            lambda: folder / str(next(numbers)),
            self.clock,
            size_bytes_max=size_bytes_max,
            scrub_period_s=WEEK_S,
        )
        self.sweeper = self.parts.sweeper

    async def commit(
        self, made: Snapshot, *, record: bool = True, claim: Claim | None = None
    ) -> None:
        for part in made.content.segments:
            key = records.segment_key(TOWN, part.blake3)
            self.blobs.blobs[key] = b"data"
        await self.catalog.commit(made, claim or Claim(), None)
        self.sweeper.note_written(made)
        if record:
            key = records.record_key(made.agent, made.generation)
            self.blobs.blobs[key] = records.to_json(made).encode()

    async def generations(self) -> list[int]:
        return [entry.generation for entry in await self.catalog.entries(NAME)]

    def recorded(self) -> list[int]:
        names = (key.rpartition("/")[2] for key in self.blobs.blobs)
        found = map(records.generation_of, names)
        return sorted(generation for generation in found if generation is not None)


@pytest.fixture
def plant(tmp_path: Path) -> Plant:
    return Plant(tmp_path)


class TestStart:
    async def test_writes_missing_records(self, plant: Plant) -> None:
        """A crash between commit and record leaves a record to write."""
        await plant.commit(snapshot(1), record=False)

        await plant.sweeper.start()

        assert [1] == plant.recorded()

    @pytest.mark.parametrize(
        "changes",
        [
            pytest.param({"hold": True}, id="held"),
            pytest.param({"deletion": Deletion(at(9), at(99))}, id="deleted"),
            pytest.param({}, id="labelled"),
        ],
    )
    async def test_writes_what_a_change_left_out(
        self, plant: Plant, changes: dict[str, Any]
    ) -> None:
        """A crash between a change and its record leaves one to write."""
        made = snapshot(1)
        await plant.commit(made)
        await plant.commit(snapshot(2))
        changed = replace(made, revision=1, **changes)
        await plant.catalog.revise(NAME, made, changed)

        await plant.sweeper.start()

        stored = plant.blobs.blobs[records.record_key(NAME, 1)]
        assert changed == records.from_json(stored)

    async def test_removes_records_of_the_deleted(self, plant: Plant) -> None:
        """A crash between forgetting a generation and removing its record leaves a
        record to remove."""
        await plant.commit(snapshot(1))
        await plant.commit(snapshot(2))
        await plant.catalog.drop(NAME, [1])

        await plant.sweeper.start()

        assert [2] == plant.recorded()

    async def test_adopts_what_the_catalog_lost(self, plant: Plant) -> None:
        """Records that are newer than the catalog are believed."""
        await plant.commit(snapshot(1))
        made = snapshot(2)
        plant.blobs.blobs[records.record_key(NAME, 2)] = records.to_json(made).encode()

        await plant.sweeper.start()

        state, _ = await plant.catalog.look(NAME)
        assert made == state.head
        assert [2, 1] == await plant.generations()

    @pytest.mark.parametrize("moment", ["list", "look"])
    async def test_a_commit_meanwhile_is_no_loss(
        self, plant: Plant, moment: str
    ) -> None:
        """A generation that another replica commits while the repair looks does not
        make the catalog look older than the store: its owner stays its owner."""
        await plant.catalog.advance(NAME, CLAIM)
        await plant.commit(snapshot(1), claim=CLAIM)
        pause = plant.blobs.pause if moment == "list" else plant.catalog.pause
        pause.at(moment)
        repairing = asyncio.create_task(plant.sweeper._repair(NAME))
        await pause.arrived()
        await plant.commit(snapshot(2), claim=CLAIM)
        pause.go_on()
        await repairing

        state, _ = await plant.catalog.look(NAME)
        assert (CLAIM.instance, 2) == (state.instance, state.last)
        assert [1, 2] == plant.recorded()

    async def test_another_replicas_town_is_left_for_later(self, plant: Plant) -> None:
        """A town that another replica cleans at our start is repaired in a later
        round."""
        await plant.commit(snapshot(1), record=False)
        plant.upkeep.taken = True
        await plant.sweeper.start()
        assert [] == plant.recorded()
        plant.upkeep.taken = False

        await plant.sweeper.sweep()

        assert [1] == plant.recorded()

    async def test_nothing_of_nothing(self, plant: Plant) -> None:
        """An empty store needs no repair."""
        await plant.sweeper.start()
        await plant.sweeper.sweep(full=True)

        assert {} == plant.blobs.blobs


class TestSweep:
    async def test_thins_with_age(self, plant: Plant) -> None:
        """Generations go as they age, with their records and their segments."""
        for n in range(1, 121):
            mark = segment(f"base {n}")
            await plant.commit(snapshot(n, content=content(segments=(mark,))))
        plant.clock.advance(DAY_S * 2)

        await plant.sweeper.sweep(full=True)

        assert [120] == await plant.generations()
        assert [120] == plant.recorded()
        assert 2 == len(plant.blobs.blobs)

    async def test_one_replica_at_a_time(self, plant: Plant) -> None:
        """While another replica cleans a town nothing of it is thinned or collected;
        what was noted is not forgotten."""
        for n in range(1, 4):
            await plant.commit(snapshot(n))
        plant.blobs.blobs[records.segment_key(TOWN, segment("lost").blake3)] = b"data"
        plant.sweeper.note_deleted(TOWN)
        plant.clock.advance(DAY_S * 40)
        before = dict(plant.blobs.blobs)
        plant.upkeep.taken = True
        await plant.sweeper.sweep()
        assert before == plant.blobs.blobs
        plant.upkeep.taken = False

        await plant.sweeper.sweep()

        assert [3] == await plant.generations()
        assert 2 == len(plant.blobs.blobs)

    async def test_rests_when_nothing_changed(self, plant: Plant) -> None:
        """A round without changes asks no store anything."""
        await plant.commit(snapshot(1))
        await plant.sweeper.sweep()
        plant.blobs.before = failing("list", "read", "create", "delete")
        plant.catalog.before = failing("entries", "recent", "drop", "trim")

        await plant.sweeper.sweep()

    async def test_expires_paused_uploads(self, plant: Plant) -> None:
        """An hour after its last byte an upload is forgotten, not before."""
        header = Header(NAME, Body.FILE, snapshot(1).origin, Claim())
        async with plant.parts.intake._staging.opened(header):
            pass
        [path] = plant.staging.rglob("*.file")
        last = plant.clock.now().timestamp()
        os.utime(path, (last, last))

        plant.clock.advance(3599)
        await plant.sweeper.sweep()
        assert path.exists()
        plant.clock.advance(2)
        await plant.sweeper.sweep()
        assert not path.exists()

    async def test_a_failed_round_is_made_up(self, plant: Plant) -> None:
        """What a store in trouble left undone is done in a later round."""
        for n in (1, 2):
            await plant.commit(snapshot(n, create_time=at(n)))
        plant.clock.advance(40 * DAY_S)
        plant.catalog.before = failing_once("drop")

        with pytest.raises(Exception, match="told to fail"):
            await plant.sweeper.sweep()
        await plant.sweeper.sweep()

        assert [2] == await plant.generations()


class TestRun:
    @pytest.fixture
    async def running(self, plant: Plant) -> AsyncIterator[Plant]:
        """Sweeps in the background."""
        task = asyncio.create_task(plant.sweeper.run())
        await asyncio.sleep(0)
        yield plant
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def test_a_deletion_is_followed_at_once(self, running: Plant) -> None:
        """Data of what was deleted does not wait for the hour."""
        await running.commit(snapshot(1))
        await running.parts.shelf.delete(NAME, None, Claim(), None)

        await wait_until(lambda: running.blobs.blobs == {})

    async def test_trouble_does_not_end_it(self, running: Plant) -> None:
        """A round that fails is not the last one."""
        await running.commit(snapshot(1))
        tried: list[str] = []

        def fail(method: str) -> None:
            tried.append(method)
            failing("entries")(method)

        running.catalog.before = fail
        running.sweeper.note_deleted(TOWN)
        await wait_until(lambda: "entries" in tried)
        running.catalog.before = lambda method: None

        await running.parts.shelf.delete(NAME, None, Claim(), None)

        await wait_until(lambda: running.blobs.blobs == {})

    async def test_resting_agents_have_their_turn(self, running: Plant) -> None:
        """Once an hour all agents are swept, written to or not."""
        for n in (1, 2):
            await running.commit(snapshot(n, create_time=at(n)))
        running.sweeper._written.clear()
        running.clock.advance(40 * DAY_S + SWEEP_ALL_EVERY_S)
        running.sweeper.note_deleted("nowhere")

        await wait_until(lambda: running.recorded() == [2])


async def test_a_catalog_that_is_lost_meanwhile_deletes_nothing(
    plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its silence about a generation is no deletion; the records bring it back."""
    for generation in (1, 2, 3):
        await plant.commit(snapshot(generation))
    real = plant.catalog.forgotten

    async def lost(agent: AgentName, generations: Sequence[int]) -> Sequence[int]:
        monkeypatch.undo()
        plant.catalog.__dict__.update(MemoryCatalog().__dict__)
        return await real(agent, generations)

    monkeypatch.setattr(plant.catalog, "forgotten", lost)
    await plant.sweeper.start()

    assert [1, 2, 3] == plant.recorded()
    assert [3, 2, 1] == await plant.generations()


async def test_one_town_does_not_hold_up_the_others(plant: Plant) -> None:
    """What cannot be read in one is told; the rest is tidied all the same."""
    rotten = records.record_key(AgentName("a-town", "a"), 1)
    unused = records.segment_key(TOWN, bytes(32))
    plant.blobs.blobs |= {rotten: b"rotten", unused: b"data"}
    plant.sweeper.note_deleted("a-town")
    plant.sweeper.note_deleted(TOWN)

    with pytest.raises(ServiceError, match="a-town"):
        await plant.sweeper.sweep()

    assert unused not in plant.blobs.blobs
    assert rotten in plant.blobs.blobs


@pytest.mark.parametrize("by", ["sweep", "claim"])
async def test_a_catalog_that_lost_a_compaction(plant: Plant, by: str) -> None:
    """The record in the blob store is later, and the segments of the catalog's may be
    gone: the head reads as the record says."""
    lost = snapshot(1)
    later = compacted(lost, (segment("merged"),))
    await plant.commit(lost)
    key = records.record_key(NAME, 1)
    plant.blobs.blobs[key] = records.to_json(later).encode()

    if by == "sweep":
        await plant.sweeper.start()
    else:
        await plant.parts.shelf.advance(NAME, CLAIM)

    state, _ = await plant.catalog.look(NAME)
    assert later == state.head


async def test_a_head_that_was_deleted_once(plant: Plant) -> None:
    """The catalog lost what came after it: the newest state that there is can be
    claimed, whatever its record says."""
    made = snapshot(1)
    await plant.commit(made)
    gone = replace(made, revision=1, deletion=Deletion(at(9), at(99)))
    key = records.record_key(NAME, 1)
    plant.blobs.blobs[key] = records.to_json(gone).encode()

    state = await plant.parts.shelf.advance(NAME, CLAIM)

    assert made == state.head


async def test_a_compaction_that_was_cut_before_its_record(plant: Plant) -> None:
    """The catalog is later: the record in the blob store follows, else what was merged
    would stay for ever."""
    early = snapshot(1)
    later = compacted(early, (segment("merged"),))
    await plant.commit(early)
    key = records.record_key(NAME, 1)
    plant.blobs.blobs[key] = records.to_json(early).encode()
    assert await plant.catalog.revise(NAME, early, later)

    await plant.sweeper.start()

    assert later == records.from_json(plant.blobs.blobs[key])
