"""The scrub: what has rotted is found in time, built upon no more, and healed."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.chassis.errors import Reason, ServiceError
from services.snapshots import records
from services.snapshots import scrub as scrub_module
from services.snapshots.collection import stored_segments
from services.snapshots.generations import Snapshot
from services.snapshots.rot import PARTS, STEPS, Place, due
from services.snapshots.store import BlobStore
from tests.support import segments as made
from tests.support.snapshot_values import NAME, segment
from tests.support.tokens import TOWN
from tests.unit.snapshots.test_compactor import OWNER, Writer
from tests.unit.snapshots.test_sweep import WEEK_S

WEEK_US = round(WEEK_S * 1_000_000)


class TestDue:
    def test_a_first_pass_begins_at_once(self) -> None:
        """What was never read may have rotted long ago."""
        assert Place(7) == due(None, 7, WEEK_US)

    def test_steps_are_spread_over_the_period(self) -> None:
        """Half of a pass is done after half of its time, and not sooner."""
        half = Place(0, STEPS // 2)

        assert due(half, WEEK_US // 2 - WEEK_US // STEPS, WEEK_US) is None
        assert half == due(half, WEEK_US // 2, WEEK_US)

    def test_one_that_was_away_catches_up(self) -> None:
        """All steps whose time has come are due, one after the other."""
        assert Place(0, STEPS - 1) == due(Place(0, STEPS - 1), WEEK_US, WEEK_US)

    def test_the_next_pass_begins_when_the_period_is_over(self) -> None:
        """The store is read once in it, and again in the next one."""
        assert due(Place(0, STEPS), WEEK_US - 1, WEEK_US) is None
        assert Place(WEEK_US + 5) == due(Place(0, STEPS), WEEK_US + 5, WEEK_US)


@pytest.fixture
async def writer(tmp_path: Path) -> Writer:
    """An agent with a base and two deltas."""
    writer = Writer(tmp_path)
    await writer.begin(40)
    await writer.edit(times=2)
    return writer


async def scrub(writer: Writer) -> None:
    """A whole pass, in a week's time."""
    await writer.parts.scrubber.round()
    writer.plant.clock.advance(WEEK_S)
    await writer.parts.scrubber.round()


async def keys(writer: Writer) -> list[str]:
    head = await writer.head()
    return [records.segment_key(TOWN, one.blake3) for one in head.content.segments]


async def marks(writer: Writer) -> set[bytes]:
    return set(await writer.plant.rot_log.marks(TOWN))


def flip(writer: Writer, key: str) -> None:
    data = bytearray(writer.plant.blobs.blobs[key])
    data[len(data) // 2] ^= 1
    writer.plant.blobs.blobs[key] = bytes(data)


async def save_as_a_supervisor(writer: Writer) -> Snapshot:
    """A delta; a base when that is asked for."""
    image = made.edited(writer.images[-1], [5], b"more")
    try:
        return await writer.save(image)
    except ServiceError as error:
        if error.reason is not Reason.PARENT_MISMATCH or "resend" in error.metadata:
            raise
        return await writer._send(made.base(image), image)


async def test_sound_ones_stay_unmarked(writer: Writer) -> None:
    """A store in which nothing has rotted is read, and left alone."""
    await scrub(writer)

    assert set() == await marks(writer)
    assert 4 == len((await save_as_a_supervisor(writer)).content.segments)


@pytest.mark.parametrize("index", [0, 1, 2])
@pytest.mark.parametrize("loss", ["rotten", "gone"])
async def test_what_was_lost_is_healed_by_the_next_save(
    writer: Writer, index: int, loss: str
) -> None:
    """One flipped bit, or a segment that is gone: found within the period, and the
    next save is a base."""
    key = (await keys(writer))[index]
    if loss == "rotten":
        flip(writer, key)
    else:
        del writer.plant.blobs.blobs[key]

    await scrub(writer)

    assert {records.digest_of(key.rpartition("/")[2])} == await marks(writer)
    saved = await save_as_a_supervisor(writer)
    assert 1 == len(saved.content.segments)
    assert 2 == len((await save_as_a_supervisor(writer)).content.segments)


async def test_what_is_collected_meanwhile_is_no_loss(
    writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All is deleted after the scrub has read what the records name."""

    async def collected(town: str, blobs: BlobStore) -> list[bytes]:
        await writer.parts.shelf.delete(NAME, None, OWNER, None)
        await writer.parts.sweeper.sweep()
        return await stored_segments(town, blobs)

    monkeypatch.setattr(scrub_module, "stored_segments", collected)

    await scrub(writer)

    assert {} == writer.plant.blobs.blobs
    assert set() == await marks(writer)


async def test_a_good_copy_takes_the_mark_away(writer: Writer, tmp_path: Path) -> None:
    """The same bytes come again, and all that stood on them is whole."""
    [key, *_] = await keys(writer)
    flip(writer, key)
    await scrub(writer)

    # Of the very state that the first generation holds.
    await writer._send(made.base(writer.images[0]), writer.images[0])

    assert set() == await marks(writer)


async def test_one_that_was_mended_by_hand(writer: Writer) -> None:
    """An operator put the right bytes back: the next pass sees it."""
    [key, *_] = await keys(writer)
    good = writer.plant.blobs.blobs[key]
    flip(writer, key)
    await scrub(writer)
    writer.plant.blobs.blobs[key] = good

    await scrub(writer)

    assert set() == await marks(writer)


async def test_marks_of_nothing_are_forgotten(writer: Writer) -> None:
    """What no record names any more may be collected, and its mark goes."""
    await writer.plant.rot_log.mark(TOWN, segment("dropped").blake3)

    await scrub(writer)

    assert set() == await marks(writer)


async def test_a_mark_is_minded_after_a_restart(writer: Writer) -> None:
    """Also by a replica that did not find it."""
    head = await writer.head()
    await writer.plant.rot_log.mark(TOWN, head.content.segments[0].blake3)

    await writer.parts.scrubber.start()

    assert 1 == len((await save_as_a_supervisor(writer)).content.segments)


async def test_a_fault_of_the_way_is_no_rot(writer: Writer) -> None:
    """What reads wrong once and right the next time is sound."""
    [key, *_] = await keys(writer)
    good = writer.plant.blobs.blobs[key]
    reads = 0

    def spoil(method: str, where: str) -> None:
        nonlocal reads
        if (method, where) == ("read", key):
            reads += 1
            writer.plant.blobs.blobs[key] = b"noise" if reads == 1 else good

    writer.plant.blobs.before = spoil
    await scrub(writer)

    assert 2 <= reads
    assert set() == await marks(writer)


async def test_a_pass_goes_on_where_it_was(writer: Writer) -> None:
    """Half a week reads half of the store, the other half the rest; nothing is read
    while another replica has the turn."""
    await writer.parts.scrubber.round()
    writer.plant.clock.advance(WEEK_S / 2)
    await writer.parts.scrubber.round()
    place = await writer.plant.rot_log.place(TOWN)
    assert place is not None
    assert place.done == PARTS // 2 + 1

    writer.plant.upkeep.taken = True
    writer.plant.clock.advance(WEEK_S / 2 - 1)
    await writer.parts.scrubber.round()
    assert place == await writer.plant.rot_log.place(TOWN)

    writer.plant.upkeep.taken = False
    await writer.parts.scrubber.round()
    assert Place(place.begun_us, STEPS) == await writer.plant.rot_log.place(TOWN)


async def test_heads_are_named(
    writer: Writer, capsys: pytest.CaptureFixture[str]
) -> None:
    """The log says whose next save matters."""
    [key, *_] = await keys(writer)
    flip(writer, key)

    await scrub(writer)

    said = capsys.readouterr().out
    assert "segment.rotten" in said
    assert NAME.agent in said


async def test_trouble_in_one_town_is_no_trouble_in_others(writer: Writer) -> None:
    """A record that cannot be read stops the pass of its own town alone."""
    before = f"{records.agent_folder('a-town')}/mayor/records/{1:019d}.json"
    writer.plant.blobs.blobs[before] = b"no record"
    flip(writer, (await keys(writer))[0])

    for _ in range(2):
        with pytest.raises(ServiceError):
            await scrub(writer)

    assert 1 == len(await marks(writer))
