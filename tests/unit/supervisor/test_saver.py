"""Saves: nothing committed is missing, nothing is saved twice, the fence holds."""

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import apsw
import pytest

from services.chassis.clock import SystemClock
from services.chassis.errors import Reason, ServiceError
from services.chassis.names import AgentName
from services.segments.chain import ChainBuilder
from services.segments.page_map import PageMap
from services.supervisor.places import Lineage, Places
from services.supervisor.saver import DELTAS_MAX, Saver
from services.supervisor.snapshots_client import Generation, Segmented
from tests.fakes.snapshots_client import FakeSnapshots

NAME = AgentName("t", "a")


@pytest.fixture
def places(tmp_path: Path) -> Places:
    places = Places(tmp_path / "agent")
    places.prepare()
    return places


@pytest.fixture
def database(places: Places) -> Path:
    path = places.home / "agent.db"
    connection = apsw.Connection(str(path))
    connection.execute("pragma journal_mode=wal")
    connection.execute("create table note (text)")
    # Large enough that a note is a small change: small databases are saved whole.
    connection.execute("create table ballast as select zeroblob(200000)")
    connection.close()
    return path


@pytest.fixture
def snapshots() -> FakeSnapshots:
    return FakeSnapshots(epoch=1)


def write(database: Path, text: str) -> None:
    # Never through another SQLite library: it would drop the saver's locks.
    connection = apsw.Connection(str(database))
    # As an agent does: whoever opens the log first holds it for a moment.
    connection.set_busy_timeout(2000)
    connection.execute("insert into note values (?)", (text * 400,))
    connection.close()


@asynccontextmanager
async def saving(
    snapshots: FakeSnapshots, places: Places, database: Path, epoch: int = 1
) -> AsyncIterator[Saver]:
    saver = Saver(
        name=NAME,
        epoch=epoch,
        database=database,
        places=places,
        snapshots=snapshots,  # type: ignore[arg-type]
        clock=SystemClock(),
        runtime="exec",
        runtime_version="",
    )
    saver.begin(Lineage(0, epoch), None, snapshots.head)
    await saver.open()
    try:
        yield saver
    finally:
        await saver.close()


async def notes(snapshots: FakeSnapshots, generation: Generation, at: Path) -> int:
    """How many notes a generation holds, read back as a restore would."""
    at.mkdir()
    with ChainBuilder(at / "built.db") as chain:
        async for segment in snapshots.download(NAME, generation):
            chain.add([segment])
        chain.finish()
    connection = apsw.Connection(str(at / "built.db"))
    try:
        assert "ok" == connection.pragma("integrity_check")
        return len(connection.execute("select 1 from note").fetchall())
    finally:
        connection.close()


async def test_each_generation_holds_what_was_committed(
    snapshots: FakeSnapshots, places: Places, database: Path, tmp_path: Path
) -> None:
    """A base, then deltas; each reads as the database at its save."""
    async with saving(snapshots, places, database) as saver:
        for number in range(1, 5):
            write(database, "x")
            assert number == await saver.save()

    assert [1, 2, 3, 4] == [len(one.segments) for one in snapshots.generations]
    for generation in snapshots.generations:
        at = tmp_path / str(generation.number)
        assert generation.number == await notes(snapshots, generation, at)


async def test_an_unchanged_database_is_not_saved(
    snapshots: FakeSnapshots, places: Places, database: Path
) -> None:
    """An idle agent costs no writes."""
    async with saving(snapshots, places, database) as saver:
        await saver.save()
        assert 1 == await saver.save()

    assert 1 == len(snapshots.uploads)


async def test_a_new_base_where_compaction_lags(
    snapshots: FakeSnapshots, places: Places, database: Path
) -> None:
    """A chain that nobody compacts ends at the length that the service takes."""
    async with saving(snapshots, places, database) as saver:
        for _ in range(DELTAS_MAX + 3):
            write(database, "x")
            await saver.save()

    lengths = [len(one.segments) for one in snapshots.generations]
    assert [*range(1, DELTAS_MAX + 2), 1, 2] == lengths


async def test_deltas_for_ever_where_chains_are_compacted(
    snapshots: FakeSnapshots, places: Places, database: Path
) -> None:
    """It is the service's chain that counts: as long as that is short, no save reads
    the whole database again."""
    async with saving(snapshots, places, database) as saver:
        for _ in range(DELTAS_MAX + 3):
            write(database, "x")
            await saver.save()
            saver.lineage = replace(saver.lineage, deltas=1)

    assert DELTAS_MAX + 3 == len(snapshots.generations[-1].segments)


async def test_prefixes_that_are_gone(
    snapshots: FakeSnapshots, places: Places, database: Path, tmp_path: Path
) -> None:
    """A delta whose prefixes were compacted away is sent again without, as a delta."""
    refuse = [True]

    def gone(segmented: Segmented) -> None:
        if refuse.pop():
            raise ServiceError(Reason.PARENT_MISMATCH, "gone", resend="without prefix")

    async with saving(snapshots, places, database) as saver:
        for _ in range(3):
            write(database, "x")
            await saver.save()
        refuse = [False, True]
        snapshots.before = gone
        write(database, "x")
        await saver.save()

    assert 4 == len(snapshots.generations[-1].segments)
    refused, landed = snapshots.uploads[-2:]
    assert refused.upload_id != landed.upload_id
    assert 4 == await notes(snapshots, snapshots.generations[-1], tmp_path / "restored")


async def test_a_lost_answer_is_one_generation(
    snapshots: FakeSnapshots, places: Places, database: Path, tmp_path: Path
) -> None:
    """Committed, and the answer lost: the repeat is the same generation."""
    lose = [True]

    def cut(segmented: Segmented) -> None:
        if lose.pop():
            raise ServiceError(Reason.STORE_UNAVAILABLE, "cannot reach the service")

    snapshots.after = lambda segmented: cut(segmented) if lose else None
    async with saving(snapshots, places, database) as saver:
        with pytest.raises(ServiceError):
            await saver.save()
        write(database, "x")
        assert 2 == await saver.save()

    assert 2 == len(snapshots.generations)
    assert 1 == await notes(snapshots, snapshots.generations[-1], tmp_path / "n")


async def test_a_fenced_save_commits_nothing_and_says_so(
    snapshots: FakeSnapshots, places: Places, database: Path
) -> None:
    """A paused owner that wakes up after a takeover changes nothing."""
    fenced: list[str] = []
    async with saving(snapshots, places, database) as saver:
        saver.on_fenced = fenced.append
        await saver.save()
        snapshots.epoch = 2
        write(database, "late")
        with pytest.raises(ServiceError) as refused:
            await saver.save()

    assert Reason.LEASE_FENCED == refused.value.reason
    assert 1 == len(snapshots.generations)
    assert 1 == len(fenced)


async def test_a_head_moved_by_others_is_followed_with_a_base(
    snapshots: FakeSnapshots, places: Places, database: Path, tmp_path: Path
) -> None:
    """Somebody wrote a whole file under our epoch: the next save is whole, on top."""
    async with saving(snapshots, places, database) as saver:
        await saver.save()
        head = snapshots.generations[-1]
        snapshots.generations.append(
            Generation(2, True, (), b"", 0, 0, "", "", "", "other", head.saved_at)
        )
        write(database, "x")
        assert 3 == await saver.save()

    assert 1 == len(snapshots.generations[-1].segments)
    assert 1 == await notes(snapshots, snapshots.generations[-1], tmp_path / "n")


async def test_savers_of_one_moment_share_one_save(
    snapshots: FakeSnapshots, places: Places, database: Path
) -> None:
    """Ten callers that ask together cost two saves at most, and all are served."""
    snapshots.gate = asyncio.Event()
    async with saving(snapshots, places, database) as saver:
        first = asyncio.create_task(saver.save())
        while not saver._lock.locked():
            await asyncio.sleep(0)
        later = [asyncio.create_task(saver.save()) for _ in range(10)]
        await asyncio.sleep(0)
        write(database, "x")
        snapshots.gate.set()
        await asyncio.gather(first, *later)

    assert len(snapshots.uploads) <= 2


async def test_the_map_is_there_before_the_end(
    snapshots: FakeSnapshots, places: Places, database: Path
) -> None:
    """Whoever comes after a SIGKILL finds the hashes of the last save."""
    async with saving(snapshots, places, database) as saver:
        await saver.save()
        write(database, "x")
        await saver.save()

        kept = PageMap.load(places.page_map)

        assert kept is not None
        assert kept.fingerprint == saver._map.fingerprint


async def test_a_successor_goes_on_with_deltas(
    snapshots: FakeSnapshots, places: Places, database: Path
) -> None:
    """After a restart of the process the page map is still there: no new base."""
    async with saving(snapshots, places, database) as saver:
        await saver.save()
    write(database, "x")
    saver = Saver(
        name=NAME,
        epoch=1,
        database=database,
        places=places,
        snapshots=snapshots,  # type: ignore[arg-type]
        clock=SystemClock(),
        runtime="exec",
        runtime_version="",
    )
    await saver.open()
    try:
        assert 2 == await saver.save()
    finally:
        await saver.close()

    assert 2 == len(snapshots.generations[-1].segments)


async def test_a_closed_one_holds_no_page_map(
    snapshots: FakeSnapshots, places: Places, database: Path
) -> None:
    """40 MiB at 10 GB: the next run's would be a second one."""
    async with saving(snapshots, places, database) as saver:
        await saver.save()
        known, lineage = PageMap.load(places.page_map), places.lineage()
        assert known is not None
        assert lineage is not None
        held = weakref.ref(known)
        saver.begin(lineage, known, snapshots.head)
        del known
    gc.collect()

    assert held() is None, saver


async def test_it_saves_by_itself_while_the_database_changes(
    snapshots: FakeSnapshots, places: Places, database: Path
) -> None:
    """Without anybody asking, a change is durable soon; the lag is then zero."""
    saved = asyncio.Event()
    async with saving(snapshots, places, database) as saver:
        saver.on_saved = lambda _: saved.set()
        keeper = asyncio.create_task(saver.keep_saving())
        write(database, "x")
        await asyncio.wait_for(saved.wait(), 10)
        keeper.cancel()
        await asyncio.gather(keeper, return_exceptions=True)

    assert 0.0 == saver.lag_s


async def test_while_the_store_is_away_the_lag_grows_and_nothing_is_lost(
    snapshots: FakeSnapshots, places: Places, database: Path, tmp_path: Path
) -> None:
    """A store that comes back gets everything; meanwhile the lag shows."""
    away = [True]

    def refuse(segmented: Segmented) -> None:
        if away:
            raise ServiceError(Reason.STORE_UNAVAILABLE, "cannot reach the store")

    snapshots.before = refuse
    saved = asyncio.Event()
    async with saving(snapshots, places, database) as saver:
        saver.on_saved = lambda _: saved.set()
        keeper = asyncio.create_task(saver.keep_saving())
        write(database, "x")
        while not saver.lag_s:
            await asyncio.sleep(0.01)
        away.clear()
        await asyncio.wait_for(saved.wait(), 15)
        keeper.cancel()
        await asyncio.gather(keeper, return_exceptions=True)

    assert 1 == await notes(snapshots, snapshots.generations[-1], tmp_path / "n")


async def test_no_database_yet_is_generation_zero(
    snapshots: FakeSnapshots, places: Places
) -> None:
    """An agent that has not made its database can be saved: there is nothing."""
    async with saving(snapshots, places, places.home / "none.db") as saver:
        assert 0 == await saver.save()

    assert [] == snapshots.uploads


async def test_a_fault_of_the_disk_does_not_end_the_saves(
    places: Places, database: Path, snapshots: FakeSnapshots
) -> None:
    """The record cannot be written for a while: the saves go on, and catch up."""
    fault = places.root / "lineage.new"
    fault.mkdir()
    async with saving(snapshots, places, database) as saver:
        going_on = asyncio.create_task(saver.keep_saving())
        with pytest.raises(ServiceError) as refused:
            await saver.save()
        saver.request()
        await asyncio.sleep(0)
        fault.rmdir()
        saver.request()
        async with asyncio.timeout(10):
            while not saver.generation and not going_on.done():
                await asyncio.sleep(0.01)

        assert (Reason.INTERNAL, False) == (refused.value.reason, going_on.done())
        going_on.cancel()
        await asyncio.gather(going_on, return_exceptions=True)


async def test_a_hung_upload_does_not_hold_up_the_end(
    snapshots: FakeSnapshots,
    places: Places,
    database: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever closes a saver waits a moment, not for as long as an upload may hang."""
    monkeypatch.setattr("services.supervisor.saver.CLOSE_S", 0.05)
    snapshots.gate = asyncio.Event()
    async with saving(snapshots, places, database) as saver:
        hung = asyncio.create_task(saver.save())
        while not saver._steps:
            await asyncio.sleep(0)
        await asyncio.wait_for(saver.close(), 5)

    await asyncio.gather(hung, return_exceptions=True)
    assert [] == snapshots.generations
    assert [] == list(places.scratch.glob("*.segment"))
