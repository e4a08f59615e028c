"""Each durable step of what the service does by itself, one after the other: a process
that dies there, the next one that puts right what is left, and what must hold."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import grpc

from tests.faults.snapshots.mortal import Stage, die_at_each
from tests.support import segments as made
from tests.support.snapshot_frames import Client
from tests.support.waiting import wait_until

# Every so manieth point, unless asked for all of them.
STRIDE: Final = 1 if os.environ.get("ROUNDS") else 9
SEED: Final = int(os.environ.get("SEED") or 1)


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
    afterwards: Mapping[str, str] | None = None,
    **environ: str,
) -> list[str]:
    """Once to the end, then from the same stores to each step of that. What is left
    after the next start must be the same each time. `afterwards` is what differs in
    the environment of those that put it right."""
    later = {**environ, **(afterwards or {})}
    stage.keep()
    assert stage.begin(0, **environ)
    await act(stage)
    await wait_until(lambda: stage.said(*events), what=str(events), limit_s=20)
    stage.process.stop()
    steps = stage.steps
    async with cleaned(stage, writer, kept, **later):
        expected = stage.stored()

    async def check(stage: Stage, die_at: int) -> None:
        async with cleaned(stage, writer, kept, **later):
            await act(stage)
            with contextlib.suppress(AssertionError):
                await wait_until(lambda: expected == stage.stored(), limit_s=20)
            assert expected == stage.stored()

    stride = STRIDE if STRIDE == 1 else STRIDE * stage.cost
    points = range(1 + SEED % stride, len(steps) + 1, stride)
    await die_at_each(stage, act, check, points, **environ)
    sys.stderr.write(f"{len(steps)} points, killed at {len(points)} of them\n")
    return steps


@asynccontextmanager
async def cleaned(
    stage: Stage, writer: Writer, kept: set[int], **environ: str
) -> AsyncIterator[None]:
    """The service is back, and then has cleaned; all the time what there is reads well.
    What is half gone must not look whole even before that."""
    stage.process.start(**{**environ, "TK_SWEPT": ""})
    async with stage.client() as client:
        await assert_reads(client, writer, kept)
    stage.process.kill()
    stage.start_to_sweep(**environ)
    async with stage.client() as client:
        await wait_until(lambda: stage.sweeps >= 2, limit_s=20)
        yield
        await assert_reads(client, writer, kept)
    stage.process.kill()
