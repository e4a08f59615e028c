"""UploadSnapshot of segments: what commits, what resumes, what is refused."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from blake3 import blake3

from services.chassis.errors import ServiceError
from services.chassis.names import AgentName
from services.segments.encode import PrefixSource
from services.segments.pack import Prefix
from services.snapshots.generations import DELTAS_MAX
from tests.contract.snapshots.conftest import Saves
from tests.support import segments as made
from tests.support.faults import failing_once
from tests.support.snapshot_errors import reason_of, refusal
from tests.support.snapshot_frames import (
    INSTANCE,
    NAME,
    Client,
    Frame,
    chunk,
    chunks,
    header,
    trailer,
)
from tests.support.snapshots_world import World
from tests.support.waiting import wait_until
from townkeeper.snapshots.v1 import resources_pb2
from townkeeper.snapshots.v1 import snapshots_pb2 as pb

IMAGE = made.image(40)
BASE = made.base(IMAGE)
FINGERPRINT = bytes(made.fingerprint(IMAGE))


def prefix_of(pages: made.Image, known: set[int]) -> PrefixSource:
    """Older versions of a chunk's own pages, of those that the chain's deltas had."""

    def source(numbers: Sequence[int], lowest: int, most: int) -> Prefix:
        chosen = [n for n in numbers if n in known and n >= lowest][:most]
        return Prefix(chosen, b"".join(pages[n - 1] for n in chosen))

    return source


async def persisted_bytes(world: World, name: str) -> int:
    """How far an upload got, as the service sees it; 0 if it does not know it."""
    try:
        agent = AgentName.parse(NAME)
        return (await world.parts.intake.paused(agent, name)).persisted_bytes
    except ServiceError:
        return 0


def upload_id() -> str:
    return str(uuid.uuid4())


class TestCommit:
    async def test_a_base(self, world: World, saves: Saves) -> None:
        """A committed base is the head, with all that was said of it."""
        first = await saves.client.upload(
            BASE,
            FINGERPRINT,
            runtime="kilo",
            runtime_version="7.7.9",
            session_id="ses_1",
            labels={"why": "test"},
        )

        assert f"{NAME}/snapshots/1" == first.name
        assert resources_pb2.FORMAT_PAGES == first.format
        assert (40 * 512, 512, 40) == (
            first.size_bytes,
            first.page_size_bytes,
            first.page_count,
        )
        [segment] = first.segments
        assert resources_pb2.Segment.KIND_BASE == segment.kind
        assert (blake3(BASE).digest(), len(BASE)) == (
            segment.blake3,
            segment.size_bytes,
        )
        assert FINGERPRINT == first.fingerprint
        assert ("kilo", "7.7.9", "ses_1") == (
            first.runtime,
            first.runtime_version,
            first.session_id,
        )
        assert (1, INSTANCE, {"why": "test"}) == (
            first.epoch,
            first.instance,
            dict(first.labels),
        )
        assert first == (await saves.client.get()).snapshot
        assert [] == world.staged

    async def test_a_chain_that_nobody_compacts(self, saves: Saves) -> None:
        """However far compaction lags, there is a longest chain, and a way on."""
        await saves.base()
        for _ in range(DELTAS_MAX):
            saved = await saves.delta()

        found = await reason_of(saves.delta())

        assert 1 + DELTAS_MAX == len(saved.segments)
        assert ("FAILED_PRECONDITION", "PARENT_MISMATCH") == found
        assert 2 + DELTAS_MAX == (await saves.base()).generation

    async def test_deltas_that_grow_and_shrink(self, saves: Saves) -> None:
        """A database may get longer or shorter between two saves."""
        await saves.base()
        old = saves.images[-1]
        for image in (old + made.image(3, seed=9), old[:11]):
            previous = saves.images[-1]
            await saves.upload(made.delta(previous, image), image)
            saves.images.append(image)

        for generation in (1, 2, 3):
            found = await saves.client.download(generation)
            assert saves.file(generation) == found.data

    async def test_a_delta_with_a_prefix(self, saves: Saves) -> None:
        """Deltas may be packed with older pages of their chain as a dictionary."""
        await saves.base()
        await saves.delta(3, 7)
        await saves.delta(7, 9)
        old = saves.images[-1]
        image = made.edited(old, [3, 7, 9], b"after")
        segment = made.delta(old, image, prefix_of(old, {3, 7, 9}))

        await saves.upload(segment, image)

        found = await saves.client.download()
        assert b"".join(image) == found.data

    async def test_a_prefix_that_nobody_has(self, saves: Saves) -> None:
        """A delta that rests on pages no earlier delta carries cannot be read: it is
        asked for without prefixes."""
        await saves.base()
        await saves.delta(3)
        old = saves.images[-1]
        image = made.edited(old, [3, 7], b"after")
        segment = made.delta(old, image, prefix_of(old, {3, 7}))

        found = await reason_of(saves.upload(segment, image))

        assert ("FAILED_PRECONDITION", "PARENT_MISMATCH") == found

    async def test_a_delta_that_lies(self, saves: Saves) -> None:
        """A delta whose fingerprint is not what it makes of the head could never be
        restored: it is refused now, not found out then."""
        await saves.base()
        old = saves.images[-1]
        image = made.edited(old, [3], b"new")
        lie = made.fingerprint(old)
        segment = made.delta(old, image, fingerprint_after=lie)

        found = await reason_of(
            saves.client.upload(segment, bytes(lie), if_generation_match=1)
        )

        assert ("FAILED_PRECONDITION", "PARENT_MISMATCH") == found

    async def test_numbers_only_rise(self, saves: Saves) -> None:
        """Each commit makes the generation after the last."""
        assert 1 == (await saves.base()).generation
        assert 2 == (await saves.delta()).generation
        assert 3 == (await saves.base(seed=1)).generation

    async def test_the_same_id_twice_is_one_generation(self, saves: Saves) -> None:
        """A lost answer is asked for again, and nothing is made twice."""
        name = upload_id()
        first = await saves.client.upload(BASE, FINGERPRINT, upload_id=name)

        again = await saves.client.send([header(upload_id=name)])

        assert first == again.snapshot
        assert 1 == len((await saves.client.list()).snapshots)

    async def test_an_answer_is_lost(self, world: World, saves: Saves) -> None:
        """A commit whose answer never came is found by its id."""
        world.catalog.after = failing_once("commit")
        name = upload_id()
        frames = [header(upload_id=name), *chunks(BASE), trailer(BASE, FINGERPRINT)]
        found = await reason_of(saves.client.send(frames))

        again = await saves.client.send([header(upload_id=name)])

        assert ("UNAVAILABLE", "STORE_UNAVAILABLE") == found
        assert 1 == again.snapshot.generation
        assert 1 == len((await saves.client.list()).snapshots)

    async def test_the_store_is_away(self, world: World, saves: Saves) -> None:
        """What could not be stored now is committed by its trailer alone, later."""
        world.blobs.before = failing_once("publish")
        name = upload_id()
        frames = [header(upload_id=name), *chunks(BASE), trailer(BASE, FINGERPRINT)]
        found = await reason_of(saves.client.send(frames))

        assert ("UNAVAILABLE", "STORE_UNAVAILABLE") == found
        assert len(BASE) == await saves.client.persisted(name)
        resumed = header(upload_id=name, write_offset=len(BASE))
        done = await saves.client.send([resumed, trailer(BASE, FINGERPRINT)])
        assert 1 == done.snapshot.generation
        assert [] == world.staged

    async def test_the_client_leaves_after_its_trailer(
        self, world: World, saves: Saves
    ) -> None:
        """A commit that has begun is finished, whoever still listens."""
        world.blobs.pause.at("publish")
        task = asyncio.create_task(saves.client.upload(BASE, FINGERPRINT))
        await world.blobs.pause.arrived()

        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        world.blobs.pause.go_on()

        await wait_until(lambda: world.staged == [])
        assert 1 == len((await saves.client.list()).snapshots)


class TestResume:
    async def test_a_stream_without_trailer_pauses(self, saves: Saves) -> None:
        """Without a trailer nothing commits, and nothing that arrived is lost."""
        name = upload_id()

        answer = await saves.client.send(
            [header(upload_id=name), *chunks(BASE[:700], size=300)]
        )

        assert "upload" == answer.WhichOneof("outcome")
        assert (name, NAME, 700) == (
            answer.upload.upload_id,
            answer.upload.parent,
            answer.upload.persisted_size_bytes,
        )
        assert answer.upload.expire_time.seconds > 0
        assert 700 == await saves.client.persisted(name)
        assert [] == list((await saves.client.list()).snapshots)

    async def test_goes_on_where_it_was_cut(self, saves: Saves) -> None:
        """However often it is cut, the upload becomes one generation."""
        name = upload_id()
        for cut in (0, 1, 700, 701):
            offset = 0 if cut == 0 else await saves.client.persisted(name)
            resumed = header(upload_id=name, write_offset=offset)
            await saves.client.send([resumed, *chunks(BASE[:cut], offset)])

        resumed = header(upload_id=name, write_offset=701)
        done = await saves.client.send(
            [resumed, *chunks(BASE, 701), trailer(BASE, FINGERPRINT)]
        )

        assert 1 == done.snapshot.generation
        found = await saves.client.download()
        assert b"".join(IMAGE) == found.data

    @pytest.mark.parametrize("offset", [0, 699, 701])
    async def test_elsewhere_is_told_where(self, saves: Saves, offset: int) -> None:
        """A resume at the wrong place learns the right one."""
        name = upload_id()
        await saves.client.send([header(upload_id=name), chunk(BASE[:700])])

        error = await refusal(
            saves.client.send([header(upload_id=name, write_offset=offset)])
        )

        assert ("OUT_OF_RANGE", "OFFSET_MISMATCH") == (
            error.code.name,
            error.reason.name,
        )
        assert {"persisted_size_bytes": "700"} == error.metadata

    async def test_a_client_that_is_cut_off(self, world: World, saves: Saves) -> None:
        """A cut connection leaves what arrived, to be resumed."""
        name = upload_id()
        arrived = asyncio.Event()

        async def frames() -> AsyncIterator[Frame]:
            yield header(upload_id=name)
            yield chunk(BASE[:700])
            arrived.set()
            await asyncio.Event().wait()

        call = saves.client.stub.UploadSnapshot(frames())
        await arrived.wait()

        async def persisted() -> bool:
            return await persisted_bytes(world, name) == 700

        await wait_until(persisted)
        call.cancel()

        await wait_until(lambda: world.server.server.in_flight == 0)
        again = header(upload_id=name, write_offset=700)
        done = await saves.client.send(
            [again, *chunks(BASE, 700), trailer(BASE, FINGERPRINT)]
        )
        assert 1 == done.snapshot.generation

    async def test_two_streams_of_one_upload(self, world: World, saves: Saves) -> None:
        """Only one stream at a time writes to an upload; nor can it be aborted."""
        name = upload_id()
        go_on = asyncio.Event()

        async def frames() -> AsyncIterator[Frame]:
            yield header(upload_id=name)
            yield chunk(BASE[:700])
            await go_on.wait()

        call = saves.client.stub.UploadSnapshot(frames())
        await wait_until(lambda: world.staged != [])

        second = await reason_of(saves.client.send([header(upload_id=name)]))
        abort = await reason_of(saves.client.abort(name))
        go_on.set()
        answer = await call

        assert ("ABORTED", "UPLOAD_BUSY") == second
        assert ("ABORTED", "UPLOAD_BUSY") == abort
        assert 700 == answer.upload.persisted_size_bytes

    async def test_get_and_abort(self, world: World, saves: Saves) -> None:
        """A paused upload can be asked about and thrown away; absent is fine."""
        name = upload_id()
        await saves.client.send([header(upload_id=name), chunk(BASE[:700])])

        await saves.client.abort(name)
        await saves.client.abort(name)

        found = await reason_of(saves.client.persisted(name))
        assert ("NOT_FOUND", "UPLOAD_NOT_FOUND") == found
        assert [] == world.staged

    @pytest.mark.parametrize(
        "changes",
        [
            pytest.param({"parent": f"{NAME}-2"}, id="another agent"),
            pytest.param({"body": pb.UploadHeader.BODY_FILE}, id="another body"),
        ],
    )
    async def test_an_id_is_used_for_one_thing(
        self, saves: Saves, changes: dict[str, Any]
    ) -> None:
        """A paused upload's id cannot be taken for something else."""
        name = upload_id()
        await saves.client.send([header(upload_id=name), chunk(BASE[:700])])
        await Client(saves.client.channel, f"{NAME}-2").advance()

        found = await reason_of(saves.client.send([header(upload_id=name, **changes)]))

        assert ("ALREADY_EXISTS", "UPLOAD_REUSED") == found

    async def test_a_committed_id_is_of_its_agent(self, saves: Saves) -> None:
        """A committed upload's id is no other agent's either."""
        name = upload_id()
        await saves.client.upload(BASE, FINGERPRINT, upload_id=name)

        found = await reason_of(
            saves.client.send([header(upload_id=name, parent=f"{NAME}-2")])
        )

        assert ("ALREADY_EXISTS", "UPLOAD_REUSED") == found
