"""Uploads that were right when they began and are not any more at their trailer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from services.snapshots import intake
from tests.contract.snapshots.conftest import Saves
from tests.support import segments as made
from tests.support.snapshot_errors import reason_of
from tests.support.snapshot_frames import (
    OTHER_INSTANCE,
    Frame,
    chunks,
    file_header,
    header,
    trailer,
)
from tests.support.snapshots_world import World
from tests.support.waiting import wait_until

IMAGE = made.image(40, seed=8)
BASE = made.base(IMAGE)
END = trailer(BASE, bytes(made.fingerprint(IMAGE)))


class Stream:
    """An upload that waits before its trailer."""

    def __init__(self, saves: Saves, first: Frame, data: bytes, end: Frame) -> None:
        self._go_on = asyncio.Event()
        self._frames = [first, *chunks(data)]
        self._end = end
        self.call = saves.client.stub.UploadSnapshot(self._sent())

    async def _sent(self) -> AsyncIterator[Frame]:
        for frame in self._frames:
            yield frame
        await self._go_on.wait()
        yield self._end

    def go_on(self) -> None:
        self._go_on.set()


async def begun(world: World, stream: Stream) -> None:
    await wait_until(lambda: world.staged != [])


@pytest.mark.parametrize(
    ("first", "refused"),
    [
        pytest.param(
            lambda: header(epoch=1, if_generation_match=1),
            ("FAILED_PRECONDITION", "LEASE_FENCED"),
            id="old epoch",
        ),
        pytest.param(
            lambda: header(epoch=2, if_generation_match=0),
            ("ABORTED", "GENERATION_MISMATCH"),
            id="old head",
        ),
    ],
)
async def test_late_from_the_first_frame(
    world: World, saves: Saves, first: Callable[[], Frame], refused: tuple[str, str]
) -> None:
    """What can never commit is refused before its bytes are sent."""
    await saves.base()
    await saves.client.advance(epoch=2)

    assert refused == await reason_of(saves.client.send([first()]))

    assert [] == world.staged


async def test_fenced_in_mid_stream(world: World, saves: Saves) -> None:
    """An owner that lost its agent while it sent commits nothing, and leaves
    nothing."""
    stream = Stream(saves, header(), BASE, END)
    await begun(world, stream)

    await saves.client.advance(epoch=2, instance=OTHER_INSTANCE)
    stream.go_on()

    assert ("FAILED_PRECONDITION", "LEASE_FENCED") == await reason_of(stream.call)
    assert [] == list((await saves.client.list()).snapshots)
    assert [] == world.staged


async def test_overtaken_in_mid_stream(world: World, saves: Saves) -> None:
    """A save on a head that has moved meanwhile is refused."""
    stream = Stream(saves, header(), BASE, END)
    await begun(world, stream)

    saved = await saves.base()
    stream.go_on()

    assert ("ABORTED", "GENERATION_MISMATCH") == await reason_of(stream.call)
    assert saved == (await saves.client.get()).snapshot
    assert [] == world.staged


async def test_whole_files_take_turns(world: World, saves: Saves) -> None:
    """Whole files without a precondition all commit, in the order of their ends."""
    stream = Stream(saves, file_header(epoch=1), b"slow", trailer(b"slow"))
    await begun(world, stream)

    await saves.client.upload_file(b"fast", epoch=1)
    stream.go_on()

    assert 2 == (await stream.call).snapshot.generation
    assert b"fast" == (await saves.client.download(1)).data
    assert b"slow" == (await saves.client.download(2)).data


async def test_whole_files_at_once(saves: Saves) -> None:
    """Many whole files at the same time become as many generations."""
    sent = [b"%d" % n for n in range(8)]

    done = await asyncio.gather(
        *(saves.client.upload_file(data, epoch=1) for data in sent)
    )

    assert list(range(1, 9)) == sorted(each.generation for each in done)
    for each, data in zip(done, sent, strict=True):
        assert data == (await saves.client.download(each.generation)).data


async def test_swept_in_mid_commit(world: World, saves: Saves) -> None:
    """A segment that is stored and not yet committed is not taken for nobody's."""
    world.catalog.pause.at("commit")
    task = asyncio.create_task(
        saves.client.upload(BASE, bytes(made.fingerprint(IMAGE)))
    )
    await world.catalog.pause.arrived()

    await world.parts.sweeper.sweep(full=True)
    world.catalog.pause.go_on()
    await task

    assert b"".join(IMAGE) == (await saves.client.download()).data


async def test_swept_in_mid_download(world: World, saves: Saves) -> None:
    """What is being sent stays, though its generation was deleted meanwhile; then it
    goes."""
    await saves.base()
    world.blobs.pause.at("local")
    task = asyncio.create_task(saves.client.download())
    await world.blobs.pause.arrived()

    await saves.client.delete("-", epoch=1)
    await world.parts.sweeper.sweep()
    world.blobs.pause.go_on()

    assert saves.file(1) == (await task).data
    await world.parts.sweeper.sweep(full=True)
    assert {} == world.blobs.blobs


async def test_deleted_before_it_is_sent(world: World, saves: Saves) -> None:
    """What was deleted while a download began is not found, and not called lost."""
    saved = await saves.base()
    world.blobs.pause.at("local")
    task = asyncio.create_task(reason_of(saves.client.download()))
    await world.blobs.pause.arrived()
    await saves.client.delete("-", epoch=1)
    del world.blobs.blobs[world.segment_key(saved)]
    world.blobs.pause.go_on()

    assert ("NOT_FOUND", "SNAPSHOT_NOT_FOUND") == await task


async def test_a_client_that_falls_silent(
    world: World, saves: Saves, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stream on which nothing comes is cut, and its bytes wait to be resumed."""
    monkeypatch.setattr(intake, "FRAME_WAIT_S", 0.2)
    first = header()
    stream = Stream(saves, first, BASE, END)

    found = await reason_of(stream.call)

    assert ("DEADLINE_EXCEEDED", "DEADLINE") == found
    assert len(BASE) == await saves.client.persisted(first.header.upload_id)
