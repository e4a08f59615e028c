"""What was deleted can be looked at and brought back, until its time is over."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from services.chassis.names import AgentName
from services.snapshots.amendment import PURGE_AFTER_S
from tests.contract.snapshots.conftest import Saves
from tests.fakes.snapshot_catalog import MemoryCatalog
from tests.support.clock import ManualClock
from tests.support.snapshot_errors import reason_of, refusal
from tests.support.snapshot_frames import NAME, Client, file_header
from tests.support.snapshots_world import World, serving
from townkeeper.snapshots.v1 import snapshots_pb2 as pb
from townkeeper.snapshots.v1.resources_pb2 import Snapshot

ABSENT = ("NOT_FOUND", "SNAPSHOT_NOT_FOUND")
AGENT = AgentName.parse(NAME)
HOUR_S = 3600


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def world(tmp_path: Path, clock: ManualClock) -> AsyncIterator[World]:
    async with serving(tmp_path, clock=clock) as world:
        yield world


@pytest.fixture
async def three(saves: Saves) -> Saves:
    """An agent with three generations, of which the second is deleted."""
    await saves.base()
    await saves.delta()
    await saves.delta()
    assert 1 == await saves.client.delete(2, epoch=1)
    return saves


@pytest.fixture
def operator(world: World) -> Client:
    return world.client_with(world.tokens.operator())


async def undelete(client: Client, generation: int) -> Snapshot:
    name = f"{client.name}/snapshots/{generation}"
    request = pb.UndeleteSnapshotRequest(name=name)
    return (await client.stub.UndeleteSnapshot(request)).snapshot


def numbers(page: pb.ListSnapshotsResponse) -> list[int]:
    return [snapshot.generation for snapshot in page.snapshots]


async def test_it_is_seen_by_its_number_alone(three: Saves, clock: ManualClock) -> None:
    """With the times of its deletion and of its end."""
    found = (await three.client.get(2)).snapshot

    deleted_at = found.delete_time.ToSeconds()
    assert round(clock.now().timestamp()) == deleted_at
    assert round(PURGE_AFTER_S) == found.purge_time.ToSeconds() - deleted_at
    assert [3, 1] == numbers(await three.client.list())
    everything = await three.client.list(show_deleted=True)
    assert [3, 2, 1] == numbers(everything)
    assert found == everything.snapshots[1]


async def test_lists_of_all_go_by_pages(three: Saves) -> None:
    """A deleted one has its place in them."""
    page = await three.client.list(show_deleted=True, page_size=2)
    assert [3, 2] == numbers(page)
    rest = {"page_size": 2, "page_token": page.next_page_token}

    assert [1] == numbers(await three.client.list(show_deleted=True, **rest))


async def test_it_cannot_be_used(three: Saves, operator: Client) -> None:
    """Neither read, checked, labelled nor forked; the refusals say what to do."""
    name = f"{NAME}/snapshots/2"
    fork = pb.ForkSnapshotRequest(
        name=name, target=f"{NAME}-2", request_id=str(uuid.uuid4())
    )
    update = pb.UpdateSnapshotRequest(snapshot=Snapshot(name=name, hold=True))
    update.update_mask.paths.append("hold")
    for call in (
        three.client.download(2),
        operator.stub.VerifySnapshot(pb.VerifySnapshotRequest(name=name)),
        operator.stub.ForkSnapshot(fork),
        operator.stub.UpdateSnapshot(update),
    ):
        error = await refusal(call)
        assert ABSENT == (error.code.name, error.reason.name)
        assert "undelete" in error.message
        assert "purge_time" in error.metadata


async def test_reads_by_time_pass_it_over(
    saves: Saves, world: World, clock: ManualClock
) -> None:
    """What stood before it is what they find."""
    for _ in range(3):
        await saves.base()
        clock.advance(60)
    moment = (await saves.client.get(2)).snapshot.create_time

    await saves.client.delete(2, epoch=1)

    assert 1 == (await saves.client.get(read_time=moment)).snapshot.generation


async def test_it_comes_back(three: Saves, operator: Client, world: World) -> None:
    """As it was, though its record was left to the blob store and swept over."""
    await world.forget_records()
    await world.parts.sweeper.sweep(full=True)

    found = await undelete(operator, 2)

    assert not found.HasField("delete_time")
    assert not found.HasField("purge_time")
    assert [3, 2, 1] == numbers(await three.client.list())
    assert three.file(2) == (await three.client.download(2)).data
    assert found == await undelete(operator, 2), "it may be repeated"


async def test_until_its_time_is_over(
    three: Saves, operator: Client, world: World, clock: ManualClock
) -> None:
    """Then it goes with its record; its segments go if nobody else has them."""
    await three.base()
    await three.client.delete(3, epoch=1)
    segment = world.segment_key((await three.client.get(3)).snapshot)
    clock.advance(PURGE_AFTER_S - 1)
    await world.parts.sweeper.sweep(full=True)
    assert 3 == (await three.client.get(3)).snapshot.generation
    assert segment in world.blobs.blobs
    clock.advance(HOUR_S)

    await world.parts.sweeper.sweep(full=True)

    assert [4] == numbers(await three.client.list(show_deleted=True))
    assert segment not in world.blobs.blobs
    assert ABSENT == await reason_of(undelete(operator, 2))
    assert ABSENT == await reason_of(three.client.get(2))


async def test_its_time_does_not_begin_again(three: Saves, clock: ManualClock) -> None:
    """Deleted twice is deleted once, and may be repeated."""
    first = (await three.client.get(2)).snapshot
    clock.advance(60)

    assert 0 == await three.client.delete(2, epoch=1)

    assert first == (await three.client.get(2)).snapshot


async def test_at_once_on_request(three: Saves, world: World) -> None:
    """Deleted before or not."""
    assert 1 == await three.client.delete(2, epoch=1, purge=True)
    assert 1 == await three.client.delete(1, epoch=1, purge=True)
    await world.parts.sweeper.sweep()

    assert [3] == numbers(await three.client.list(show_deleted=True))
    assert three.file(3) == (await three.client.download()).data


async def test_all_are_gone_at_once(three: Saves, world: World) -> None:
    """Deleted ones with the others, as their agent ends."""
    assert 3 == await three.client.delete("-", epoch=1)
    await world.parts.sweeper.sweep()

    assert {} == world.blobs.blobs
    assert [] == numbers(await three.client.list(show_deleted=True))


@pytest.mark.parametrize("wanted", [{}, {"epoch": 2}])
async def test_only_under_the_highest_epoch(
    three: Saves, wanted: dict[str, Any]
) -> None:
    """A stale caller hides nothing either."""
    found = await reason_of(three.client.delete(1, **wanted))

    assert ("FAILED_PRECONDITION", "LEASE_FENCED") == found
    assert [3, 1] == numbers(await three.client.list())


async def test_the_answer_has_its_record(three: Saves) -> None:
    """So that its time is known."""
    name = f"{NAME}/snapshots/1"
    request = pb.DeleteSnapshotRequest(name=name, epoch=1)

    answer = await three.client.stub.DeleteSnapshot(request)

    assert (await three.client.get(1)).snapshot == answer.snapshot


async def test_a_late_upload_brings_nothing_back(client: Client) -> None:
    """The id of one that is deleted is used up."""
    header = file_header()
    await client.upload_file(b"one", upload_id=header.header.upload_id)
    await client.upload_file(b"two")
    await client.delete(1)

    found = await reason_of(client.send([header]))

    assert ("ALREADY_EXISTS", "UPLOAD_REUSED") == found


async def test_is_remembered_when_the_catalog_is_lost(
    three: Saves, operator: Client, world: World
) -> None:
    """The record says it; nothing that was deleted is the head of anything."""
    world.catalog.__dict__.update(MemoryCatalog().__dict__)
    await world.parts.sweeper.start()

    assert [3, 1] == numbers(await three.client.list())
    assert [3, 2, 1] == numbers(await three.client.list(show_deleted=True))
    await undelete(operator, 2)
    assert [3, 2, 1] == numbers(await three.client.list())
