"""ReindexTown: the records' word counts, beside saves, changes and deletions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from services.chassis.names import AgentName
from services.snapshots import records
from services.snapshots.rebuild import ON_ITS_WAY, merged
from services.snapshots.reindex import stored_records
from tests.contract.snapshots.conftest import Saves
from tests.contract.snapshots.test_deletions import numbers
from tests.contract.snapshots.test_edits import update
from tests.fakes.snapshot_catalog import MemoryCatalog
from tests.support.clock import ManualClock
from tests.support.faults import failing
from tests.support.snapshot_errors import reason_of, refusal
from tests.support.snapshot_frames import NAME, Client
from tests.support.snapshot_values import at, snapshot
from tests.support.snapshots_world import World, serving
from tests.support.tokens import TOWN
from townkeeper.snapshots.v1 import snapshots_pb2 as pb

AGENT = AgentName.parse(NAME)
OTHER = f"{NAME}-2"
NOW = at(ON_ITS_WAY.total_seconds())


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def world(tmp_path: Path, clock: ManualClock) -> AsyncIterator[World]:
    async with serving(tmp_path, clock=clock) as world:
        yield world


@pytest.fixture
def operator(world: World) -> Client:
    return world.client_with(world.tokens.operator())


async def reindex(client: Client, name: str = NAME) -> list[pb.ReindexTownResponse]:
    request = pb.ReindexTownRequest(name=name)
    return [one async for one in client.stub.ReindexTown(request)]


def done(name: str, generations: int, head: int, epoch: int) -> pb.ReindexTownResponse:
    return pb.ReindexTownResponse(
        agent=name, generation_count=generations, head=head, epoch=epoch
    )


async def test_a_town_from_nothing(
    world: World, saves: Saves, operator: Client
) -> None:
    """Every agent is there again, and its owner claims it anew."""
    await saves.base()
    await saves.delta()
    other = world.client_with(world.tokens.container(), OTHER)
    await other.upload_file(b"other")
    world.catalog.__dict__.update(MemoryCatalog().__dict__)

    found = await reindex(operator, f"towns/{TOWN}")

    assert [done(NAME, 2, 2, 2), done(OTHER, 1, 1, 0)] == found
    assert ("FAILED_PRECONDITION", "LEASE_FENCED") == await reason_of(saves.delta())
    saves.epoch = (await saves.client.advance(epoch=2)).generation
    await saves.delta()
    assert saves.file(3) == (await saves.client.download()).data
    await other.upload_file(b"without an epoch, as before")


async def test_a_catalog_that_says_less(
    world: World, clock: ManualClock, saves: Saves, operator: Client
) -> None:
    """One that came back from a copy knows neither holds nor deletions since."""
    for _ in range(4):
        await saves.base()
    copy = MemoryCatalog()
    await copy.adopt(AGENT, list(await world.catalog.recent(AGENT)))
    await update(operator, 1, hold=True)
    await saves.client.delete(2, epoch=1)
    await saves.client.delete(3, epoch=1, purge=True)
    world.catalog.__dict__.update(copy.__dict__)
    clock.advance(ON_ITS_WAY.total_seconds() + 1)

    assert [done(NAME, 3, 4, 2)] == await reindex(operator)

    assert [4, 1] == numbers(await saves.client.list())
    assert [4, 2, 1] == numbers(await saves.client.list(show_deleted=True))
    assert (await saves.client.get(1)).snapshot.hold
    held = await reason_of(saves.client.delete(1, epoch=2))
    assert ("FAILED_PRECONDITION", "SNAPSHOT_HELD") == held


async def test_what_was_saved_meanwhile_stays(
    world: World, saves: Saves, operator: Client
) -> None:
    """A commit between the look and the end is no loss, whatever was read before."""
    await saves.base()
    world.blobs.pause.at("read")
    rebuilding = asyncio.create_task(reindex(operator))
    await world.blobs.pause.arrived()
    saves.epoch = 2
    await saves.client.advance(epoch=2)
    await saves.delta()
    world.blobs.pause.go_on()

    assert [done(NAME, 2, 2, 2)] == await rebuilding

    await saves.delta()
    assert saves.file(3) == (await saves.client.download()).data


async def test_what_is_on_its_way_is_carried_along(
    world: World, saves: Saves, operator: Client
) -> None:
    """A commit and a hold whose records are not written yet."""
    await saves.base()
    await saves.delta()
    first = world.blobs.blobs[records.record_key(AGENT, 1)]
    await update(operator, 1, hold=True)
    world.blobs.blobs[records.record_key(AGENT, 1)] = first
    del world.blobs.blobs[records.record_key(AGENT, 2)]

    assert [done(NAME, 2, 2, 2)] == await reindex(operator)

    one, two = await stored_records(world.blobs, AGENT)
    assert (True, 2) == (one.hold, two.generation)
    assert (await saves.client.get(1)).snapshot.hold


async def test_a_deletion_under_way_is_not_undone(
    world: World, saves: Saves, operator: Client
) -> None:
    """Records that a rebuilding had read before they went do not come back."""
    await saves.base()
    await saves.base()
    world.blobs.pause.at("delete")
    deleting = asyncio.create_task(saves.client.delete("-", epoch=1))
    await world.blobs.pause.arrived()
    assert [done(NAME, 2, 2, 2)] == await reindex(operator)
    world.blobs.pause.go_on()

    assert 2 == await deleting

    assert [] == numbers(await saves.client.list(show_deleted=True))
    assert ("NOT_FOUND", "SNAPSHOT_NOT_FOUND") == await reason_of(saves.client.get(2))


async def test_a_deletion_before_the_last_records_is_not_undone(
    world: World, saves: Saves, operator: Client
) -> None:
    """All is deleted after the catalog's step, before the missing record is written."""
    await saves.base()
    del world.blobs.blobs[records.record_key(AGENT, 1)]
    world.blobs.pause.at("create")
    rebuilding = asyncio.create_task(reindex(operator))
    await world.blobs.pause.arrived()
    assert 1 == await saves.client.delete("-", epoch=2)
    world.blobs.pause.go_on()

    await rebuilding

    assert [done(NAME, 0, 0, 3)] == await reindex(operator)
    assert [] == numbers(await saves.client.list(show_deleted=True))


async def test_a_refused_try_writes_nothing(
    world: World, saves: Saves, operator: Client
) -> None:
    """A record that the catalog's step has not seen could undo what comes between."""
    await saves.base()
    del world.blobs.blobs[records.record_key(AGENT, 1)]
    before = dict(world.blobs.blobs)

    def change(method: str) -> None:
        if method == "adopt":
            world.catalog._agents[AGENT].change()

    world.catalog.before = change

    assert ("UNAVAILABLE", "STORE_UNAVAILABLE") == await reason_of(reindex(operator))
    assert before == world.blobs.blobs


async def test_a_deleted_agent_does_not_come_back_with_a_copy(
    world: World, clock: ManualClock, saves: Saves, operator: Client
) -> None:
    """A catalog from before the deletion of all knows what no record tells of."""
    await saves.base()
    copy = MemoryCatalog()
    await copy.adopt(AGENT, list(await world.catalog.recent(AGENT)))
    await saves.client.delete("-", epoch=1)
    world.catalog.__dict__.update(copy.__dict__)
    clock.advance(ON_ITS_WAY.total_seconds() + 1)

    assert [done(NAME, 0, 0, 2)] == await reindex(operator)

    assert [] == numbers(await saves.client.list(show_deleted=True))
    assert [] == await stored_records(world.blobs, AGENT)


async def test_a_store_that_is_away_deletes_nothing(
    world: World, clock: ManualClock, saves: Saves, operator: Client
) -> None:
    """A folder that is not mounted looks like one from which all was deleted."""
    await saves.base()
    world.blobs.blobs.clear()
    clock.advance(ON_ITS_WAY.total_seconds() + 1)
    world.blobs.before = failing("check")

    assert ("UNAVAILABLE", "STORE_UNAVAILABLE") == await reason_of(reindex(operator))
    assert [1] == numbers(await saves.client.list())


async def test_one_rotten_record_is_told_of(
    world: World, saves: Saves, operator: Client
) -> None:
    """The other agents are done, and nothing that it names is forgotten."""
    await saves.base()
    await world.client_with(world.tokens.container(), OTHER).upload_file(b"other")
    key = records.record_key(AGENT, 1)
    world.blobs.blobs[key] = b"rot"
    found = list[pb.ReindexTownResponse]()

    async def collect() -> None:
        request = pb.ReindexTownRequest(name=f"towns/{TOWN}")
        async for one in operator.stub.ReindexTown(request):
            found.append(one)

    error = await refusal(collect())

    assert ("DATA_LOSS", "SNAPSHOT_CORRUPT") == (error.code.name, error.reason.name)
    assert {"record": key} == error.metadata
    assert [done(OTHER, 1, 1, 0)] == found
    assert 1 == (await saves.client.get(1)).snapshot.generation


@pytest.mark.parametrize("name", ["towns", "towns/t/agents", "towns/t/rigs/r"])
async def test_malformed(world: World, name: str) -> None:
    """A town, or an agent of one."""
    found = await reason_of(
        reindex(world.client_with(world.tokens.operator("*")), name)
    )

    assert ("INVALID_ARGUMENT", "NAME_MALFORMED") == found


class TestMerged:
    def test_the_store_decides(self) -> None:
        """What it has not was deleted; what only it has is there."""
        stored = [snapshot(2), snapshot(3)]

        assert stored == merged([snapshot(1), stored[0]], stored, NOW + timedelta(1))

    def test_the_later_revision_counts(self) -> None:
        """On whichever side it is."""
        first, second = snapshot(1), snapshot(2)
        known = [replace(first, revision=2), replace(second, revision=1)]
        stored = [replace(first, revision=1), replace(second, revision=2)]

        assert [known[0], stored[1]] == merged(known, stored, NOW)

    def test_another_generation_of_that_number(self) -> None:
        """What the store has under it was acknowledged; whose revision is later says
        nothing."""
        stored, other = snapshot(1), snapshot(1, revision=5)

        assert [stored] == merged([other], [stored], NOW)

    def test_an_agent_without_a_record(self) -> None:
        """Only what is too young to have one is there."""
        known = [snapshot(n) for n in (1, 2, 3)]

        assert known[2:] == merged(known, [], at(2) + ON_ITS_WAY)

    def test_what_may_be_on_its_way(self) -> None:
        """Newer than all that is stored, or just committed."""
        known = [snapshot(n) for n in (1, 2, 3)]
        late = at(2) + ON_ITS_WAY

        assert known == merged(known, [known[1]], at(0) + ON_ITS_WAY)
        assert known[1:] == merged(known, [known[1]], late)
