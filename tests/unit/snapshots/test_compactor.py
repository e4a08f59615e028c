"""Compaction beside saves: whatever meets whatever, every generation stays itself."""

from __future__ import annotations

import asyncio
import os
import random
import uuid
import zlib
from collections.abc import AsyncIterator, Collection
from dataclasses import replace
from pathlib import Path

import pytest
from blake3 import blake3

from services.chassis.errors import Reason, ServiceError
from services.segments.prefix import PrefixCache
from services.snapshots import compactor, records
from services.snapshots.compaction import SEGMENTS_MAX
from services.snapshots.downloads import Range
from services.snapshots.generations import Claim, Kind, Origin, Snapshot
from services.snapshots.upload import Body, Chunk, Frame, Header, Trailer
from tests.support import segments as made
from tests.support.faults import failing
from tests.support.snapshot_values import INSTANCE, NAME
from tests.support.waiting import wait_until
from tests.unit.snapshots.test_delta_proof import random_change
from tests.unit.snapshots.test_sweep import Plant

ROUNDS = int(os.environ.get("ROUNDS") or 4)
SEED = int(os.environ.get("SEED") or 1)
OWNER = Claim(1, INSTANCE, "boot")


class Writer:
    """A supervisor: saves what changed, packed with what its deltas carried before."""

    def __init__(self, folder: Path) -> None:
        self.plant = Plant(folder, size_bytes_max=1 << 20)
        self.parts = self.plant.parts
        self.images: list[made.Image] = []
        self.resent = 0
        self._cache = PrefixCache()

    async def begin(self, page_count: int) -> None:
        await self.plant.catalog.advance(NAME, OWNER)
        image = made.image(page_count)
        await self._send(made.base(image), image)

    async def save(self, image: made.Image) -> Snapshot:
        old = self.images[-1]
        try:
            saved = await self._send(made.delta(old, image, self._cache.source), image)
        except ServiceError as error:
            if error.reason is not Reason.PARENT_MISMATCH:
                raise
            if "resend" not in error.metadata:
                raise
            self.resent += 1
            self._cache.reset()
            saved = await self._send(made.delta(old, image), image)
        for block in made.delta_blocks(old, image):
            self._cache.offer(block)
        self._cache.commit(len(image))
        return saved

    async def edit(self, count: int = 3, times: int = 1) -> None:
        """Saves that change the first pages."""
        for _ in range(times):
            mark = b"save %d " % len(self.images)
            await self.save(made.edited(self.images[-1], range(1, count + 1), mark))

    async def compact(self) -> None:
        await self.parts.compactor.compact(NAME)

    async def head(self) -> Snapshot:
        state, _ = await self.plant.catalog.look(NAME)
        assert state.head is not None
        return state.head

    async def chain(self) -> list[Kind]:
        return [segment.kind for segment in (await self.head()).content.segments]

    async def check(self) -> None:
        """Every generation, page by page."""
        for generation, image in enumerate(self.images, 1):
            snapshot = await self.parts.shelf.snapshot(NAME, generation)
            async with self.parts.downloads.file(snapshot, Range()) as parts:
                found = [part.data async for part in parts if isinstance(part, Chunk)]
            assert b"".join(image) == b"".join(found), generation

    async def _send(self, segment: bytes, image: made.Image) -> Snapshot:
        header = Header(
            NAME,
            Body.SEGMENT,
            Origin(str(uuid.uuid4())),
            OWNER,
            if_generation_match=len(self.images),
        )
        end = Trailer(
            len(segment), blake3(segment).digest(), bytes(made.fingerprint(image))
        )

        async def frames() -> AsyncIterator[Frame]:
            yield header
            yield Chunk(0, segment, zlib.crc32(segment))
            yield end

        saved = await self.parts.intake.upload(frames())
        assert isinstance(saved, Snapshot)
        self.images.append(image)
        return saved


@pytest.fixture
async def writer(tmp_path: Path) -> Writer:
    """With a base that is large enough not to be folded soon."""
    writer = Writer(tmp_path)
    await writer.begin(600)
    return writer


@pytest.mark.timeout(120)
@pytest.mark.parametrize("round_number", range(ROUNDS))
async def test_random_histories(tmp_path: Path, round_number: int) -> None:
    """Saves of any kind, with compactions between and beside them: each generation is
    the one that was saved, and the head is short in the end."""
    source = random.Random(SEED + round_number)
    writer = Writer(tmp_path)
    await writer.begin(source.choice([40, 200, 800]))
    for n in range(70):
        beside = asyncio.create_task(writer.compact()) if n % 3 == 0 else None
        if source.random() < 0.5:
            await writer.edit(source.randrange(1, 5))
        else:
            old = writer.images[-1]
            image = random_change(source, old, b"%d" % n) if n % 7 == 0 else old
            await writer.save(made.edited(image, [len(image)], b"end %d" % n))
        if beside is not None:
            await beside

    await writer.compact()

    assert SEGMENTS_MAX >= len(await writer.chain())
    await writer.check()


async def test_small_deltas_become_one(writer: Writer) -> None:
    """A long chain of small deltas reads as the base and one."""
    await writer.edit(times=SEGMENTS_MAX)

    await writer.compact()

    assert [Kind.BASE, Kind.DELTA] == await writer.chain()
    await writer.check()


async def test_prefixes_reach_into_what_was_merged(writer: Writer) -> None:
    """The next delta may rest on pages of deltas that are not in the chain any more."""
    await writer.edit(times=SEGMENTS_MAX)
    await writer.compact()

    await writer.edit()

    assert 0 == writer.resent
    await writer.check()


@pytest.fixture
async def small(tmp_path: Path) -> Writer:
    """With a base that is folded as soon as the chain is long."""
    writer = Writer(tmp_path)
    await writer.begin(60)
    return writer


async def test_much_change_becomes_a_base(small: Writer) -> None:
    """Deltas as large as the base are folded into it; the next one, which rested on
    them, is asked for again without prefixes, and once only."""
    await small.edit(40, times=SEGMENTS_MAX)
    await small.compact()
    assert [Kind.BASE] == await small.chain()

    await small.edit(40, times=3)

    assert 1 == small.resent
    assert [Kind.BASE, *[Kind.DELTA] * 3] == await small.chain()
    await small.check()


@pytest.mark.parametrize("step", ["publish", "revise"])
async def test_a_save_during_a_compaction(writer: Writer, step: str) -> None:
    """A delta that is committed while its chain is merged stays on top."""
    await writer.edit(times=SEGMENTS_MAX)
    await beside_a_compaction(writer, step, 3)

    assert Kind.BASE is (await writer.chain())[0]
    assert 3 >= len(await writer.chain())
    await writer.check()


@pytest.mark.parametrize("step", ["publish", "revise"])
async def test_a_save_during_a_fold(small: Writer, step: str) -> None:
    """A delta that is committed while its chain is folded stays, although the pages
    that its prefixes name are gone from the chain."""
    await small.edit(40, times=SEGMENTS_MAX)
    await beside_a_compaction(small, step, 40)

    assert 2 >= len(await small.chain())
    assert 0 == small.resent
    await small.check()


async def beside_a_compaction(writer: Writer, step: str, pages: int) -> None:
    """Saves while a compaction is held up at this step."""
    plant = writer.plant
    pause = plant.blobs.pause if step == "publish" else plant.catalog.pause
    pause.at(step)
    compacting = asyncio.create_task(writer.compact())
    await pause.arrived()
    await writer.edit(pages)
    pause.go_on()
    await compacting


async def test_a_compaction_during_a_save(writer: Writer) -> None:
    """A commit that finds another chain than it was checked on goes on top of that."""
    await writer.edit(times=SEGMENTS_MAX)
    await beside_a_save(writer, 3)

    assert 0 == writer.resent
    assert [Kind.BASE, Kind.DELTA, Kind.DELTA] == await writer.chain()
    await writer.check()


async def test_a_fold_during_a_save(small: Writer) -> None:
    """A commit whose prefixes are folded away at its last step is asked for again."""
    await small.edit(40, times=SEGMENTS_MAX)
    await beside_a_save(small, 40)

    assert 1 == small.resent
    assert [Kind.BASE, Kind.DELTA] == await small.chain()
    await small.check()


async def beside_a_save(writer: Writer, pages: int) -> None:
    """Compacts while a commit is held up before its one step in the catalog."""
    writer.plant.catalog.pause.at("commit")
    saving = asyncio.create_task(writer.edit(pages))
    await writer.plant.catalog.pause.arrived()
    await writer.compact()
    writer.plant.catalog.pause.go_on()
    await saving


async def test_what_was_merged_is_collected(writer: Writer) -> None:
    """Once no generation names them, merged segments go; the head stays whole."""
    await writer.edit(times=SEGMENTS_MAX)
    await writer.compact()
    writer.plant.clock.advance(40 * 86_400)

    await writer.parts.sweeper.sweep(full=True)

    kept = [key for key in writer.plant.blobs.blobs if "/segments/" in key]
    assert 2 == len(kept)
    writer.images[:-1] = []
    head = await writer.head()
    async with writer.parts.downloads.file(head, Range()) as parts:
        found = [part.data async for part in parts if isinstance(part, Chunk)]
    assert b"".join(writer.images[-1]) == b"".join(found)


async def test_a_download_of_what_was_merged(writer: Writer) -> None:
    """Whoever read the record before and comes for the segments when they are gone is
    told to read it again, not that the session is lost."""
    await writer.edit(times=SEGMENTS_MAX)
    before = await writer.head()
    await writer.compact()
    for key in [key for key in writer.plant.blobs.blobs if "/segments/" in key]:
        del writer.plant.blobs.blobs[key]

    for snapshot, reason in (
        (before, Reason.STORE_UNAVAILABLE),
        (await writer.head(), Reason.SNAPSHOT_CORRUPT),
    ):
        with pytest.raises(ServiceError) as refused:
            async with writer.parts.downloads.file(replaced(snapshot), Range()):
                raise AssertionError("unreachable")
        assert reason is refused.value.reason


def replaced(snapshot: Snapshot) -> Snapshot:
    """Without its base, which both chains have."""
    segments = snapshot.content.segments[1:]
    return replace(snapshot, content=replace(snapshot.content, segments=segments))


async def test_a_rotten_chain_is_left_alone(writer: Writer) -> None:
    """What cannot be read is not merged, and nothing of it is lost for that."""
    await writer.edit(times=SEGMENTS_MAX)
    before = await writer.head()
    keys = [key for key in writer.plant.blobs.blobs if "/segments/" in key]
    worst = min(keys, key=lambda key: len(writer.plant.blobs.blobs[key]))
    data = bytearray(writer.plant.blobs.blobs[worst])
    data[-100] ^= 1
    writer.plant.blobs.blobs[worst] = bytes(data)

    with pytest.raises(ServiceError):
        await writer.compact()

    assert before == await writer.head()


async def test_a_lost_segment_is_left_alone(writer: Writer) -> None:
    """A chain with a hole waits for the base that the next save will be."""
    await writer.edit(times=SEGMENTS_MAX)
    before = await writer.head()
    for key in [key for key in writer.plant.blobs.blobs if "/segments/" in key]:
        del writer.plant.blobs.blobs[key]

    await writer.compact()

    assert before == await writer.head()


async def test_runs_by_itself(writer: Writer) -> None:
    """A commit that makes a chain long has it compacted; if that fails, the next one
    has it tried again."""
    task = asyncio.create_task(writer.parts.compactor.run())
    tried: list[str] = []

    def fail_once(method: str) -> None:
        if method == "revise":
            tried.append(method)
            if len(tried) == 1:
                failing(method)(method)

    writer.plant.catalog.before = fail_once
    await writer.edit(times=SEGMENTS_MAX)
    await wait_until(lambda: len(tried) == 1)
    assert SEGMENTS_MAX + 1 == len(await writer.chain())

    await writer.edit()

    await wait_until(lambda: len(tried) == 2)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert [Kind.BASE, Kind.DELTA] == await writer.chain()


async def test_waits_for_its_turn(
    writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While another replica cleans the town nothing is merged; then it is, though
    nobody saved meanwhile."""
    monkeypatch.setattr(compactor, "_AGAIN_S", 0.01)
    upkeep = writer.plant.upkeep
    upkeep.taken = True
    await writer.edit(times=SEGMENTS_MAX)
    before = await writer.head()
    task = asyncio.create_task(writer.parts.compactor.run())
    await wait_until(lambda: upkeep.asked >= 3)
    assert before == await writer.head()

    upkeep.taken = False

    async def short() -> bool:
        return [Kind.BASE, Kind.DELTA] == await writer.chain()

    await wait_until(short)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_other_replicas_know_what_it_names(
    writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is published is spared first: it may lie in the trash since an earlier
    round was cut off, and another replica would remove it before it is named."""
    stored: dict[bytes, bool] = {}
    blobs = writer.plant.blobs.blobs

    async def spare(town: str, digests: Collection[bytes]) -> None:
        for digest in digests:
            stored.setdefault(digest, records.segment_key(town, digest) in blobs)

    await writer.edit(times=SEGMENTS_MAX)
    monkeypatch.setattr(writer.plant.upkeep, "spare", spare)

    await writer.compact()

    merged = (await writer.head()).content.segments[-1]
    assert stored[merged.blake3] is False
