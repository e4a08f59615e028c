"""SIGKILL at each durable step of what the snapshot service does unasked: compaction,
retention, collection; and of a deletion."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import grpc
import pytest

from tests.faults.snapshots.mortal import Stage, die_at_each, verbs
from tests.support import segments as made
from tests.support.snapshot_frames import Client
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.faults, pytest.mark.redis, pytest.mark.timeout(300)]

# Every so manieth point, unless asked for all of them.
STRIDE = 1 if os.environ.get("ROUNDS") else 4
SEED = int(os.environ.get("SEED") or 1)
MORNING = "2026-01-01T09:00:10+00:00"
NOON = "2026-01-01T12:00:10+00:00"
SOON_AFTER = "2026-01-01T12:02:10+00:00"
EVENING = "2026-01-01T18:00:10+00:00"


@dataclass
class Writer:
    """Saves generations, and knows what is in each."""

    page_count: int
    written: dict[int, bytes] = field(default_factory=dict)
    image: made.Image = field(default_factory=list)

    async def base(self, client: Client) -> None:
        self.image = made.image(self.page_count, seed=len(self.written))
        await self._send(client, made.base(self.image))

    async def deltas(self, client: Client, count: int) -> None:
        for _ in range(count):
            old, mark = self.image, b"v%d" % len(self.written)
            self.image = made.edited(old, [3, 5, self.page_count], mark)
            await self._send(client, made.delta(old, self.image))

    async def _send(self, client: Client, segment: bytes) -> None:
        number = len(self.written)
        after = bytes(made.fingerprint(self.image))
        await client.upload(segment, after, if_generation_match=number)
        self.written[number + 1] = b"".join(self.image)


@asynccontextmanager
async def serving(stage: Stage, now: str) -> AsyncIterator[Client]:
    """A life that does nothing unasked."""
    stage.process.start(TK_NOW=now, TK_KEEP_CHAINS="yes")
    async with stage.client() as client:
        yield client
    stage.process.stop()


async def unasked(stage: Stage) -> None:
    """The service does it by itself."""


@contextlib.contextmanager
def gone_meanwhile() -> Iterator[None]:
    """Allows that it is not there any more."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.NOT_FOUND:
            raise


async def assert_reads(client: Client, writer: Writer, kept: set[int]) -> None:
    """Whatever is listed reads bit for bit, and what is kept is listed. A short run
    reads the oldest and the two newest."""
    listed = sorted(one.generation for one in (await client.list()).snapshots)
    assert kept <= set(listed)
    for number in listed if STRIDE == 1 else {*listed[:1], *listed[-2:]}:
        with contextlib.nullcontext() if number in kept else gone_meanwhile():
            assert writer.written[number] == (await client.download(number)).data
    if listed:
        assert listed[-1] == (await client.get()).snapshot.generation


async def every_step(
    stage: Stage,
    writer: Writer,
    kept: set[int],
    events: tuple[str, ...],
    act: Callable[[Stage], Awaitable[None]] = unasked,
    **environ: str,
) -> list[str]:
    """Once to the end, then from the same stores to each step of that. What is left
    after the next start must be the same each time."""
    stage.keep()
    assert stage.begin(0, **environ)
    await act(stage)
    await wait_until(lambda: stage.said(*events), what=str(events), limit_s=20)
    stage.process.stop()
    steps = stage.steps
    async with cleaned(stage, writer, kept, **environ):
        expected = stage.stored()

    async def check(stage: Stage, die_at: int) -> None:
        async with cleaned(stage, writer, kept, **environ):
            await act(stage)
            with contextlib.suppress(AssertionError):
                await wait_until(lambda: expected == stage.stored())
            assert expected == stage.stored()

    points = range(1 + SEED % STRIDE, len(steps) + 1, STRIDE)
    await die_at_each(stage, act, check, points, **environ)
    sys.stderr.write(f"{len(steps)} points, killed at {len(points)} of them\n")
    return steps


@asynccontextmanager
async def cleaned(
    stage: Stage, writer: Writer, kept: set[int], **environ
) -> AsyncIterator[None]:
    """The service is back, and then has cleaned; all the time what there is reads well.
    What is half gone must not look whole even before that."""
    stage.process.start(**{**environ, "TK_SWEPT": ""})
    async with stage.client() as client:
        await assert_reads(client, writer, kept)
    stage.process.kill()
    stage.start_to_sweep(**environ)
    async with stage.client() as client:
        await wait_until(lambda: stage.sweeps >= 2)
        yield
        await assert_reads(client, writer, kept)
    stage.process.kill()


async def test_a_merge(stage: Stage) -> None:
    """Killed at any step of a compaction, every generation reads as it did, and the
    next start leaves what an undisturbed compaction leaves."""
    writer = Writer(200)
    async with serving(stage, NOON) as client:
        await client.advance()
        await writer.base(client)
        await writer.deltas(client, 16)

    steps = await every_step(
        stage, writer, set(writer.written), ("chain.compacted",), TK_NOW=NOON
    )

    assert {"create", "fsync", "link", "rename", "unlink", "redis"} <= verbs(steps)


async def test_a_fold(stage: Stage) -> None:
    """The same where so much has changed that a new base is made."""
    writer = Writer(20)
    async with serving(stage, NOON) as client:
        await client.advance()
        await writer.base(client)
        await writer.deltas(client, 16)

    steps = await every_step(
        stage, writer, set(writer.written), ("chain.compacted",), TK_NOW=NOON
    )

    assert {"create", "fsync", "link", "rename", "unlink", "redis"} <= verbs(steps)


async def test_retention(stage: Stage) -> None:
    """Killed at any step of a round that thins and collects, what is kept reads well;
    what is not kept goes, to the last file."""
    writer = Writer(40)
    async with serving(stage, MORNING) as client:
        await client.advance()
        await writer.base(client)
        await writer.deltas(client, 2)
    async with serving(stage, NOON) as client:
        await writer.deltas(client, 2)
        await writer.base(client)
        await writer.deltas(client, 1)

    steps = await every_step(
        stage,
        writer,
        {3, 7},
        ("generations.dropped", "segments.collected"),
        TK_NOW=EVENING,
        TK_SWEPT=str(stage.folder / "rounds"),
    )

    # Of a minute the last generation stays; what only the others name goes as well.
    assert 5 == sum(step.startswith("unlink towns/town-1/agents") for step in steps)
    assert 2 == sum(step.startswith("unlink towns/town-1/segments") for step in steps)


async def test_a_deletion(stage: Stage) -> None:
    """Killed at any step of the deletion of one generation, and repeated: the others
    read well, and nothing of that one is left."""
    writer = Writer(40)
    async with serving(stage, NOON) as client:
        await client.advance()
        await writer.base(client)
        await writer.deltas(client, 2)
        await writer.base(client)

    async def delete(stage: Stage) -> None:
        async with stage.client() as client:
            with gone_meanwhile():  # a call before has done it
                await client.delete(3, epoch=1)

    steps = await every_step(
        stage, writer, {1, 2, 4}, ("segments.collected",), delete, TK_NOW=SOON_AFTER
    )

    assert {"redis", "unlink"} <= verbs(steps)


async def test_the_end_of_an_agent(stage: Stage) -> None:
    """The same for all generations at once: nothing is left in the store but records
    of nothing."""
    writer = Writer(40)
    async with serving(stage, NOON) as client:
        await client.advance()
        await writer.base(client)
        await writer.deltas(client, 3)

    async def delete(stage: Stage) -> None:
        async with stage.client() as client:
            with gone_meanwhile():
                await client.delete("-", epoch=1)

    await every_step(
        stage, writer, set(), ("segments.collected",), delete, TK_NOW=SOON_AFTER
    )

    assert {"lock", "townkeeper-store.json"} == set(stage.stored())
