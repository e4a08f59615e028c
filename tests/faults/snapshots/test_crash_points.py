"""SIGKILL before each durable step of a commit, one after the other."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from services.chassis.names import AgentName
from services.snapshots import records
from tests.faults.snapshots.mortal import Stage, verbs
from tests.support import segments as made
from tests.support.databases import database
from tests.support.snapshot_frames import (
    NAME,
    Client,
    Frame,
    chunks,
    file_header,
    header,
    trailer,
)
from tests.support.steps import taken

pytestmark = [
    pytest.mark.campaign,
    pytest.mark.faults,
    pytest.mark.redis,
    pytest.mark.timeout(300),
]

AGENT = AgentName.parse(NAME)
OLD = made.image(300, seed=1)
NEW = made.edited(OLD, [3, 80, 299], b"new")
DELTA = made.delta(OLD, NEW)


def delta_frames() -> list[Frame]:
    first = header(if_generation_match=1)
    end = trailer(DELTA, bytes(made.fingerprint(NEW)))
    return [first, *chunks(DELTA, size=500), end]


def file_frames(data: bytes) -> list[Frame]:
    return [file_header(epoch=1), *chunks(data, size=40_000), trailer(data)]


def start(stage: Stage, step: int) -> Path:
    """A process that dies at this step once the file exists that is returned."""
    armed = stage.folder / f"armed-{step}"
    stage.process.start(TK_ARMED=str(armed), TK_DIE_AT=str(step))
    return armed


async def die(stage: Stage, armed: Path, frames: list[Frame]) -> tuple[list[str], bool]:
    """Uploads until the process dies, or to the end; the steps that it came to, and
    whether there was an answer."""
    armed.touch()
    answered = False
    async with stage.client() as client:
        with contextlib.suppress(grpc.aio.AioRpcError):
            await client.send(frames)
            answered = True
    stage.process.kill()
    return taken(armed), answered


async def check(
    stage: Stage, client: Client, frames: list[Frame], old: int, new: bytes
) -> int:
    """Old or new, never neither; then the same upload again makes exactly one. The
    head as it was found."""
    head = (await client.get()).snapshot.generation
    assert head in (old, old + 1)
    if head == old + 1:
        assert new == (await client.download()).data
    assert [] == stage.files("scratch")

    again = Frame()
    again.CopyFrom(frames[0])
    answer = await send_again(client, again, frames)

    assert old + 1 == answer
    assert new == (await client.download()).data
    assert old + 1 == len((await client.list()).snapshots)
    assert [] == stage.files("staging")
    return head


async def send_again(client: Client, first: Frame, frames: list[Frame]) -> int:
    """From the start, or from where the service says."""
    data = b"".join(frame.chunk.data for frame in frames[1:-1])
    try:
        offset = await client.persisted(first.header.upload_id)
    except grpc.aio.AioRpcError:
        offset = 0
    first.header.write_offset = offset
    answer = await client.send([first, *chunks(data, offset), frames[-1]])
    return answer.snapshot.generation


async def every_step(
    stage: Stage, make: Callable[[int], tuple[list[Frame], bytes]]
) -> list[str]:
    """Dies at step 1, then 2, until an upload gets through; the steps of that one."""
    armed = start(stage, 1)
    async with stage.client() as client:
        await client.advance()
        await client.upload(made.base(OLD), bytes(made.fingerprint(OLD)))
    for step in range(1, 100):
        frames, new = make(step)
        steps, answered = await die(stage, armed, frames)
        if answered:
            # From this alone the catalog can be rebuilt.
            assert records.record_key(AGENT, step + 1) in stage.files("")
        armed = start(stage, step + 1)
        async with stage.client() as client:
            head = await check(stage, client, frames, step, new)
        assert head == step + 1 or not answered
        if len(steps) < step:
            sys.stderr.write(f"{len(steps)} points, killed at each of them\n")
            return steps
    raise AssertionError("an upload of more than a hundred steps?")


async def test_a_delta(stage: Stage) -> None:
    """Killed at any step of a delta's commit, the service comes back with the old
    generation or the new one, and the same upload again is that one generation."""
    image = OLD

    def make(generation: int) -> tuple[list[Frame], bytes]:
        nonlocal image
        changed = made.edited(image, [3, 80, 299], b"v%d" % generation)
        segment = made.delta(image, changed)
        if generation % 16 == 0:
            segment = made.base(changed)
        image = changed
        frames = [
            header(if_generation_match=generation),
            *chunks(segment, size=500),
            trailer(segment, bytes(made.fingerprint(changed))),
        ]
        return frames, b"".join(changed)

    steps = await every_step(stage, make)

    assert {"create", "pwrite", "fsync", "link", "redis", "unlink"} <= verbs(steps)


async def test_a_whole_file(stage: Stage, tmp_path: Path) -> None:
    """The same for a whole file, which is made into a segment on the way."""

    def make(generation: int) -> tuple[list[Frame], bytes]:
        data = database(tmp_path / "db", rows=20 + generation)
        return file_frames(data), data

    steps = await every_step(stage, make)

    assert {"create", "pwrite", "fsync", "link", "redis", "unlink"} <= verbs(steps)
