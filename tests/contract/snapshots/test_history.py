"""What can be done with generations that are there: fork, check, read by time."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.contract.snapshots.conftest import Saves
from tests.support import segments as made
from tests.support.clock import EPOCH, ManualClock
from tests.support.databases import database
from tests.support.snapshot_errors import reason_of
from tests.support.snapshot_frames import NAME, Client
from tests.support.snapshots_world import World, serving
from townkeeper.snapshots.v1 import snapshots_pb2 as pb
from townkeeper.snapshots.v1.resources_pb2 import Snapshot

TARGET = f"{NAME}-2"
NOT_FOUND = ("NOT_FOUND", "SNAPSHOT_NOT_FOUND")
INVALID = ("INVALID_ARGUMENT", "FIELD_INVALID")
DAY_S = 86_400


@pytest.fixture
def operator(world: World) -> Client:
    return world.client_with(world.tokens.operator())


@pytest.fixture
def target(world: World) -> Client:
    return world.client_with(world.tokens.container(), TARGET)


def verify(client: Client, generation: int | str = "latest") -> Any:
    request = pb.VerifySnapshotRequest(name=f"{client.name}/snapshots/{generation}")
    return client.stub.VerifySnapshot(request)


async def fork(client: Client, generation: int = 1, **changes: Any) -> Snapshot:
    fields = {
        "name": f"{NAME}/snapshots/{generation}",
        "target": TARGET,
        "request_id": str(uuid.uuid4()),
        **changes,
    }
    return (await client.stub.ForkSnapshot(pb.ForkSnapshotRequest(**fields))).snapshot


class TestVerify:
    async def test_a_sound_database(
        self, world: World, operator: Client, tmp_path: Path
    ) -> None:
        """The bytes of all segments are read, and nothing is left behind."""
        saved = await operator_upload(world, database(tmp_path / "db"))

        found = (await verify(operator)).read_bytes

        assert sum(segment.size_bytes for segment in saved.segments) == found
        assert [] == world.scratch

    async def test_opaque_bytes(self, world: World, operator: Client) -> None:
        """What is no database is sound when its bytes are the ones that came."""
        await operator_upload(world, b"no database")

        assert 0 < (await verify(operator, 1)).read_bytes

    async def test_no_sound_database(self, saves: Saves, operator: Client) -> None:
        """Pages that are whole and make no database would not be restored either."""
        await saves.base()

        assert ("DATA_LOSS", "SNAPSHOT_CORRUPT") == await reason_of(verify(operator))

    async def test_rotten_bytes(
        self, world: World, operator: Client, tmp_path: Path
    ) -> None:
        """One wrong bit anywhere is found."""
        saved = await operator_upload(world, database(tmp_path / "db"))
        key = world.segment_key(saved)
        data = bytearray(world.blobs.blobs[key])
        data[len(data) // 2] ^= 1
        world.blobs.blobs[key] = bytes(data)

        assert ("DATA_LOSS", "SNAPSHOT_CORRUPT") == await reason_of(verify(operator))

    async def test_nothing(self, operator: Client) -> None:
        """What is not there is neither sound nor damaged."""
        assert NOT_FOUND == await reason_of(verify(operator, 3))


async def operator_upload(world: World, data: bytes) -> Snapshot:
    """A whole file, which a container sends."""
    return await world.client.upload_file(data)


class TestFork:
    async def test_reads_the_same(
        self, saves: Saves, operator: Client, target: Client
    ) -> None:
        """The other agent has that state, as a generation of its own."""
        await saves.base()
        source = await saves.delta()
        await saves.delta()

        forked = await fork(operator, 2)

        assert (f"{TARGET}/snapshots/1", 1) == (forked.name, forked.generation)
        assert source.segments == forked.segments
        assert saves.file(2) == (await target.download()).data

    async def test_both_go_on(
        self, saves: Saves, operator: Client, target: Client
    ) -> None:
        """What one of them saves later is not the other's."""
        await saves.base()
        await fork(operator)
        await saves.delta(3)
        await target.advance()
        old = saves.images[0]
        image = made.edited(old, [5], b"mine")

        await target.upload(
            made.delta(old, image),
            bytes(made.fingerprint(image)),
            if_generation_match=1,
        )

        assert b"".join(image) == (await target.download()).data
        assert saves.file(2) == (await saves.client.download()).data

    async def test_the_data_stays(
        self, world: World, saves: Saves, operator: Client, target: Client
    ) -> None:
        """Deleting everything of the source leaves the fork whole."""
        await saves.base()
        await saves.delta()
        await fork(operator, 2)

        await saves.client.delete("-", epoch=1)
        await world.parts.sweeper.sweep(full=True)

        assert saves.file(2) == (await target.download()).data

    async def test_once(self, saves: Saves, operator: Client, target: Client) -> None:
        """The same request twice is one generation, whatever happened since."""
        await saves.base()
        request_id = str(uuid.uuid4())
        first = await fork(operator, request_id=request_id)
        await saves.delta()

        assert first == await fork(operator, request_id=request_id)

        assert 1 == len((await target.list()).snapshots)

    async def test_a_request_is_about_one_agent(
        self, saves: Saves, operator: Client
    ) -> None:
        """An id that was used for one target forks to no other."""
        await saves.base()
        request_id = str(uuid.uuid4())
        await fork(operator, request_id=request_id)

        found = await reason_of(
            fork(operator, request_id=request_id, target=f"{NAME}-3")
        )

        assert ("ALREADY_EXISTS", "UPLOAD_REUSED") == found

    async def test_never_over_a_snapshot(
        self, saves: Saves, operator: Client, target: Client
    ) -> None:
        """An agent that has something keeps it."""
        await saves.base()
        await target.upload_file(b"mine")

        found = await reason_of(fork(operator))

        assert ("ABORTED", "GENERATION_MISMATCH") == found
        assert b"mine" == (await target.download()).data

    async def test_to_an_agent_that_had_one(
        self, saves: Saves, operator: Client, target: Client
    ) -> None:
        """Numbers go on where they were, also under the epoch of its owner."""
        await saves.base()
        await target.advance(epoch=4)
        await target.upload_file(b"mine", epoch=4)
        await target.delete("-", epoch=4)

        forked = await fork(operator)

        assert (2, 4) == (forked.generation, forked.epoch)

    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            pytest.param({"target": NAME}, INVALID, id="itself"),
            pytest.param({"target": "towns/town-2/agents/x"}, INVALID, id="town"),
            pytest.param({"request_id": "x"}, INVALID, id="id"),
            pytest.param({"name": f"{NAME}/snapshots/9"}, NOT_FOUND, id="source"),
        ],
    )
    async def test_what_cannot_be(
        self,
        world: World,
        saves: Saves,
        changes: dict[str, Any],
        reason: tuple[str, str],
    ) -> None:
        """A fork has a source, another agent of its town, and an id."""
        await saves.base()
        anywhere = world.client_with(world.tokens.operator("*"))

        assert reason == await reason_of(fork(anywhere, **changes))


class TestByTime:
    @pytest.fixture
    def clock(self) -> ManualClock:
        return ManualClock()

    @pytest.fixture
    async def client(self, tmp_path: Path, clock: ManualClock) -> AsyncIterator[Client]:
        """Three generations, a minute apart."""
        async with serving(tmp_path, clock=clock) as world:
            for n in (1, 2, 3):
                await world.client.upload_file(b"%d" % n)
                clock.advance(60)
            yield world.client

    @pytest.mark.parametrize(
        ("after_s", "generation"),
        [(0, 1), (59, 1), (60, 2), (119, 2), (120, 3), (DAY_S, 3)],
    )
    async def test_the_newest_of_that_time(
        self, client: Client, after_s: int, generation: int
    ) -> None:
        """It is the one that was committed last before that moment, or at it."""
        moment = EPOCH + timedelta(seconds=after_s)
        found = await client.download(read_time=moment)

        assert found.header is not None
        assert generation == found.header.generation
        assert b"%d" % generation == found.data
        assert found.header == (await client.get(read_time=moment)).snapshot

    async def test_before_the_first(self, client: Client) -> None:
        """There was nothing."""
        moment = EPOCH - timedelta(microseconds=1)

        assert NOT_FOUND == await reason_of(client.download(read_time=moment))

    async def test_of_one_generation(self, client: Client) -> None:
        """A number and a time are one too many."""
        assert INVALID == await reason_of(client.download(2, read_time=EPOCH))
