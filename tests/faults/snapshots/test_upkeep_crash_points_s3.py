"""SIGKILL at each request of a compaction and of the trash, on S3 and Redis."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.snapshots.every_step import Writer, every_step, serving
from tests.faults.snapshots.mortal import verbs
from tests.faults.snapshots.mortal_s3 import S3Stage
from tests.support.lives import Lives
from tests.support.redis_server import ValkeyProcess
from tests.support.s3_server import S3Process
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.campaign,
    pytest.mark.faults,
    pytest.mark.redis,
    pytest.mark.s3,
    pytest.mark.timeout(300),
]

NOON = "2026-01-01T12:00:10+00:00"
EVENING = "2026-01-01T18:00:10+00:00"
# What was condemned, and what lies in the trash, stays there for a day.
NEXT_NIGHT = "2026-01-02T20:00:10+00:00"
NIGHT_AFTER = "2026-01-03T22:00:10+00:00"


@pytest.fixture
def stage(
    tmp_path: Path, valkey: ValkeyProcess, lives: Lives, s3: S3Process
) -> Iterator[S3Stage]:
    stage = S3Stage(tmp_path, valkey, lives, s3)
    yield stage
    stage.process.kill()


async def test_a_merge(stage: S3Stage) -> None:
    """As with files: every generation reads as it did, and nothing is left over once
    its day in the trash is over."""
    writer = Writer(200)
    async with serving(stage, NOON) as client:
        await client.advance()
        await writer.base(client)
        await writer.deltas(client, 16)

    steps = await every_step(
        stage, writer, set(writer.written), ("chain.compacted",), TK_NOW=NOON
    )

    assert {"s3", "redis"} == verbs(steps)


async def test_the_trash(stage: S3Stage) -> None:
    """Killed at any step of a round that empties the trash, also between a segment's
    sentence and its deletion: what is kept reads well, and a day later nothing else is
    there."""
    writer = Writer(40)
    async with serving(stage, NOON) as client:
        await client.advance()
        await writer.base(client)
        await writer.deltas(client, 2)
        await writer.base(client)
    stage.start_to_sweep(TK_NOW=EVENING)
    await wait_until(lambda: stage.sweeps >= 2)
    stage.process.stop()

    steps = await every_step(
        stage,
        writer,
        {4},
        ("segments.collected",),
        afterwards={"TK_NOW": NIGHT_AFTER},
        TK_NOW=NEXT_NIGHT,
        TK_SWEPT=str(stage.folder / "rounds"),
    )

    assert 3 == steps.count("redis condemn answered")
    assert 3 == steps.count("s3 delete")
