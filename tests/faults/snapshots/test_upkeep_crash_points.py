"""SIGKILL at each durable step of what the snapshot service does unasked: compaction,
retention, collection; and of a deletion."""

from __future__ import annotations

import pytest

from tests.faults.snapshots.every_step import (
    Writer,
    every_step,
    gone_meanwhile,
    serving,
)
from tests.faults.snapshots.mortal import Stage, verbs

pytestmark = [
    pytest.mark.campaign,
    pytest.mark.faults,
    pytest.mark.redis,
    pytest.mark.timeout(300),
]

MORNING = "2026-01-01T09:00:10+00:00"
NOON = "2026-01-01T12:00:10+00:00"
SOON_AFTER = "2026-01-01T12:02:10+00:00"
EVENING = "2026-01-01T18:00:10+00:00"
NEXT_WEEK = "2026-01-09T12:00:10+00:00"


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
    """Killed at any step of the deletion of one generation for good, and repeated: the
    others read well, and nothing of that one is left."""
    writer = Writer(40)
    async with serving(stage, NOON) as client:
        await client.advance()
        await writer.base(client)
        await writer.deltas(client, 2)
        await writer.base(client)

    async def delete(stage: Stage) -> None:
        async with stage.client() as client:
            with gone_meanwhile():  # a call before has done it
                await client.delete(3, epoch=1, purge=True)

    steps = await every_step(
        stage, writer, {1, 2, 4}, ("segments.collected",), delete, TK_NOW=SOON_AFTER
    )

    assert {"redis", "unlink"} <= verbs(steps)


async def test_a_purge(stage: Stage) -> None:
    """Killed at any step of the round in which the time is over of one that was
    deleted: nothing of it is left, and the head reads well."""
    writer = Writer(40)
    async with serving(stage, NOON) as client:
        await client.advance()
        await writer.base(client)
        await writer.deltas(client, 1)
        await writer.base(client)
        await client.delete(2, epoch=1)

    await every_step(
        stage,
        writer,
        {3},
        ("generations.purged", "segments.collected"),
        TK_NOW=NEXT_WEEK,
        TK_SWEPT=str(stage.folder / "rounds"),
    )

    assert 1 == sum("/records/" in name for name in stage.stored())


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
