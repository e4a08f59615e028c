"""Collection removes what no record names, and nothing else, whoever interferes."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from services.chassis.errors import Reason, ServiceError
from services.chassis.names import AgentName
from services.snapshots import records
from services.snapshots.collection import collect
from services.snapshots.generations import Claim, Segment, Snapshot
from services.snapshots.pins import Pins
from services.snapshots.upkeep import OneProcess
from tests.fakes.blob_store import MemoryBlobs
from tests.fakes.snapshot_catalog import MemoryCatalog
from tests.support.snapshot_values import NAME, chain, content, segment, snapshot
from tests.support.tokens import TOWN

OTHER = AgentName(TOWN, "other")


class Plant:
    """Stores with generations in them."""

    def __init__(self, folder: Path) -> None:
        self.blobs = MemoryBlobs(folder)
        self.catalog = MemoryCatalog()
        self.pins = Pins()

    async def commit(self, made: Snapshot, *, record: bool = True) -> None:
        for part in made.content.segments:
            self.store(part, made.agent.town)
        await self.catalog.commit(made, Claim(), None)
        if record:
            key = records.record_key(made.agent, made.generation)
            await self.blobs.create(key, records.to_json(made).encode())

    def store(self, part: Segment, town: str = TOWN) -> None:
        self.blobs.blobs[records.segment_key(town, part.blake3)] = b"data"

    def has(self, part: Segment, town: str = TOWN) -> bool:
        return records.segment_key(town, part.blake3) in self.blobs.blobs

    async def collect(self) -> int:
        return await collect(
            TOWN, self.catalog, self.blobs, self.pins, OneProcess(), "turn"
        )


@pytest.fixture
def plant(tmp_path: Path) -> Plant:
    return Plant(tmp_path)


async def test_what_nobody_names_goes(plant: Plant) -> None:
    """A segment whose commit never came to its end is removed."""
    await plant.commit(snapshot(1))
    plant.store(segment("orphan"))

    assert 1 == await plant.collect()

    assert not plant.has(segment("orphan"))
    assert plant.has(snapshot(1).content.segments[0])


async def test_what_a_chain_needs_stays(plant: Plant) -> None:
    """Segments of dropped generations stay while a later one reads through them."""
    for n in range(1, 5):
        await plant.commit(snapshot(n, content=content(deltas=n - 1)))
    await plant.catalog.drop(NAME, [1, 2, 3])
    for n in (1, 2, 3):
        await plant.blobs.delete(records.record_key(NAME, n))

    assert 0 == await plant.collect()

    assert all(map(plant.has, chain(3)))


@pytest.mark.parametrize("where", ["catalog", "blobs"])
async def test_records_of_either_store_count(plant: Plant, where: str) -> None:
    """A record that only one of the stores has keeps its segments."""
    await plant.commit(snapshot(1), record=where == "blobs")
    if where == "blobs":
        await plant.catalog.trim(NAME, await plant.catalog.recent(NAME))

    assert 0 == await plant.collect()


async def test_other_agents_count(plant: Plant) -> None:
    """A segment that another agent of the town names stays; other towns have
    their own."""
    shared = content()
    await plant.commit(snapshot(1, agent=OTHER, content=shared))
    plant.store(shared.segments[0], "town-2")

    assert 0 == await plant.collect()

    assert plant.has(shared.segments[0], "town-2")


async def test_uploads_in_flight_are_safe(plant: Plant) -> None:
    """A segment that is published and not yet committed is never taken."""
    part = segment("in flight")

    async with plant.pins.holding(TOWN, [part.blake3]):
        plant.store(part)
        assert 0 == await plant.collect()

    assert plant.has(part)
    assert 1 == await plant.collect()


async def test_a_commit_in_mid_round_is_safe(plant: Plant) -> None:
    """A commit that begins and ends after the records were read keeps its segment,
    also one that lay about as nobody's before."""
    part = segment("late")
    made = snapshot(1, agent=OTHER, content=content(segments=(part,)))
    plant.store(part)
    plant.blobs.pause.at("list")
    collecting = asyncio.create_task(plant.collect())
    await plant.blobs.pause.arrived()

    async with plant.pins.holding(TOWN, [part.blake3]):
        await plant.commit(made, record=False)
    await plant.catalog.trim(OTHER, [made])
    plant.blobs.pause.go_on()

    assert 0 == await collecting
    assert plant.has(part)


async def test_strays_are_passed_over(plant: Plant) -> None:
    """What an operator left in the folders is neither read nor removed."""
    await plant.commit(snapshot(1))
    strays = [
        f"{records.agent_folder(TOWN)}/.DS_Store",
        f"{records.segment_folder(TOWN)}/README",
        f"{records.segment_folder(TOWN)}/ab/notes.txt",
        f"{records.record_folder(NAME)}/notes.txt",
    ]
    for key in strays:
        plant.blobs.blobs[key] = b"stray"

    assert 0 == await plant.collect()

    assert set(strays) <= set(plant.blobs.blobs)


async def test_an_unreadable_record_ends_the_round(plant: Plant) -> None:
    """What a damaged record names is unknown, so nothing of its town is removed."""
    await plant.commit(snapshot(1))
    plant.store(segment("orphan"))
    plant.blobs.blobs[records.record_key(OTHER, 1)] = b"rot"

    with pytest.raises(ServiceError) as refused:
        await plant.collect()

    assert Reason.SNAPSHOT_CORRUPT is refused.value.reason
    assert plant.has(segment("orphan"))
