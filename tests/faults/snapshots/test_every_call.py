"""A fault at the first call to the stores, then at the second, and so on: all of them.

A short life of one agent is played again and again. Each time something goes wrong at
the next call, and whoever asked repeats what was not answered, as clients do.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from services.chassis.errors import Reason, ServiceError
from services.chassis.names import AgentName
from services.chassis.redis_pool import Durability, Store, connect
from services.snapshots import records
from services.snapshots.amendment import Amendment
from services.snapshots.assembly import Parts, assemble
from services.snapshots.file_blobs import FileBlobs
from services.snapshots.file_staging import FileStaging
from services.snapshots.generations import Claim, Snapshot
from services.snapshots.redis_catalog import RedisCatalog
from services.snapshots.upkeep import OneProcess
from tests.fakes.blob_store import MemoryBlobs
from tests.fakes.rot_log import MemoryRotLog
from tests.fakes.snapshot_catalog import MemoryCatalog
from tests.faults.snapshots.faulty_ports import (
    Fault,
    Faults,
    FaultyPort,
    fault_commands,
)
from tests.support import segments as made
from tests.support.clock import ManualClock
from tests.support.redis_server import ValkeyProcess
from tests.support.upload_frames import Save, base, delta, downloaded, file, streamed

pytestmark = [pytest.mark.campaign, pytest.mark.faults, pytest.mark.timeout(600)]

AGENT: Final = AgentName("town-1", "mayor")
ONE: Final = Claim(1, "towns/town-1/instances/one", "boot-1")
TWO: Final = Claim(2, "towns/town-1/instances/two", "boot-2")
# A rebuilding that is repeated raises the epoch each time.
LATE: Final = Claim(9, "towns/town-1/instances/two", "boot-3")
SIZE_BYTES_MAX: Final = 8 << 20
# A life has some 180 calls: every so manieth one, unless asked for all. With real
# stores it takes longer.
STRIDES: Final = (1, 1) if os.environ.get("ROUNDS") else (4, 17)
SEED: Final = int(os.environ.get("SEED") or 1)
# What a client repeats; a fault strikes once, so the second attempt should do.
PASSING: Final = {
    Reason.STORE_UNAVAILABLE,
    Reason.SNAPSHOT_CORRUPT,
    Reason.PARENT_MISMATCH,
}
ATTEMPTS_MAX: Final = 4

FIRST: Final = made.image(6)
SECOND: Final = made.edited(FIRST, [2, 5], b"two")
FOURTH: Final = made.edited(FIRST, [1], b"four")
FIFTH: Final = made.edited(FOURTH, [3], b"five")


class Life:
    """One service on two stores, and the agent whose life it is."""

    def __init__(self, blobs: Any, catalog: Any, folder: Path, faults: Faults):
        self.blobs = blobs
        self.catalog = catalog
        self.faults = faults
        self.clock = ManualClock()
        self.made: dict[int, bytes] = {}
        self._folder = folder
        self._numbers = itertools.count()
        self._owner = ONE
        self.parts = self._assembled()

    def _assembled(self) -> Parts:
        scratch = self._folder / "scratch"
        faulty = FaultyPort(self.blobs, self.faults, self._folder)
        return assemble(
            faulty,
            self.catalog,
            FileStaging(self._folder / "staging", self.clock),
            OneProcess(),
            MemoryRotLog(),
            lambda: scratch / f"{self._number()}",
            self.clock,
            size_bytes_max=SIZE_BYTES_MAX,
        )

    def _number(self) -> int:
        return next(self._numbers)

    async def play(self) -> None:
        """All of it; ends well whatever goes wrong once on the way."""
        ids = [str(uuid.uuid4()) for _ in range(6)]
        await self._advance(ONE)
        await self._save(1, base(AGENT, ids[1], FIRST, ONE, 0))
        await self._save(2, delta(AGENT, ids[2], FIRST, SECOND, ONE, 1))
        await self._save(3, file(AGENT, ids[3], b"a file", Claim(1)))
        await self._read({1, 2, 3})
        await self._shape()
        await self._insist(self._delete_first)
        await self._advance(TWO)
        await self._insist(self._refuse_a_stale_one)
        await self._save(4, base(AGENT, ids[4], FOURTH, TWO, 3))
        self.clock.advance(660)
        await self._save(5, delta(AGENT, ids[5], FOURTH, FIFTH, TWO, 4))
        # Of what is older than ten minutes, the last one of its minute stays.
        await self._insist(lambda: self.parts.sweeper.sweep(full=True))
        await self._read({2, 4, 5})
        await self._insist(lambda: self.parts.rebuilder.agent(AGENT))
        await self._hold(2, False)
        await self._advance(LATE)
        await self._read({2, 4, 5})
        await self._restart()
        await self._read({4, 5})

    async def _shape(self) -> None:
        """The second is held from here on; the first is deleted, and comes back."""
        await self._hold(2, True)
        await self._insist(lambda: self.parts.editor.delete(AGENT, 1, Claim(1), 3))
        await self._read({2, 3})
        await self._insist(lambda: self.parts.editor.undelete(AGENT, 1))
        await self._read({1, 2, 3})

    async def _hold(self, generation: int, hold: bool) -> None:
        change = Amendment(hold=hold)
        found = await self._insist(
            lambda: self.parts.editor.amend(AGENT, generation, change, "")
        )
        assert hold == found.hold

    async def _advance(self, claim: Claim) -> None:
        self._owner = claim
        await self._insist(lambda: self.parts.shelf.advance(AGENT, claim))

    async def _save(self, generation: int, save: Save) -> None:
        async def upload() -> Any:
            offset = await self._persisted(save)
            frames = streamed(save.frames(offset))
            return await self.parts.intake.upload(frames)

        snapshot = await self._insist(upload)
        assert isinstance(snapshot, Snapshot)
        assert (generation, save.upload_id) == (
            snapshot.generation,
            snapshot.origin.upload_id,
        )
        self.made[generation] = save.content

    async def _persisted(self, save: Save) -> int:
        try:
            found = await self.parts.intake.paused(save.agent, save.upload_id)
        except ServiceError:
            return 0
        return found.persisted_bytes

    async def _delete_first(self) -> None:
        try:
            await self.parts.shelf.delete(AGENT, 1, Claim(1), 3)
        except ServiceError as error:
            if error.reason is not Reason.SNAPSHOT_NOT_FOUND:
                raise  # else an attempt before has done it

    async def _refuse_a_stale_one(self) -> None:
        save = base(AGENT, str(uuid.uuid4()), SECOND, ONE, 3)
        with pytest.raises(ServiceError) as refused:
            await self.parts.intake.upload(streamed(save.frames()))
        if refused.value.reason is not Reason.LEASE_FENCED:
            raise refused.value

    async def _restart(self) -> None:
        async def start() -> None:
            await self.parts.intake.close()
            self.parts = self._assembled()
            await self.parts.sweeper.start()
            await self.parts.sweeper.sweep(full=True)

        await self._insist(start)

    async def _read(self, wanted: set[int]) -> None:
        async def read() -> dict[int, bytes]:
            page = await self.parts.shelf.page(AGENT, None, 0)
            return {
                one.generation: await downloaded(self.parts.downloads, one)
                for one in page.snapshots
            }

        found = await self._insist(read)
        assert {number: self.made[number] for number in wanted} == found

    async def _insist(self, work: Callable[[], Awaitable[Any]]) -> Any:
        """Repeats until there is an answer."""
        for _ in range(ATTEMPTS_MAX):
            try:
                return await self._patiently(work)
            except ServiceError as error:
                if error.reason is Reason.LEASE_FENCED:
                    # As after a reindex: whoever has the lease says so again.
                    await self._insist(
                        lambda: self.parts.shelf.advance(AGENT, self._owner)
                    )
                elif error.reason not in PASSING:
                    raise
            except TimeoutError:
                continue
        raise AssertionError(f"no answer in {ATTEMPTS_MAX} attempts")

    async def _patiently(self, work: Callable[[], Awaitable[Any]]) -> Any:
        """Waits for it, but goes away when a call is slow; TimeoutError then."""
        task = asyncio.ensure_future(work())
        held = asyncio.ensure_future(self.faults.held.wait())
        await asyncio.wait({task, held}, return_when=asyncio.FIRST_COMPLETED)
        held.cancel()
        if task.done():
            return task.result()
        task.cancel()
        await asyncio.sleep(0)
        self.faults.release.set()
        await asyncio.wait({task})
        await self.parts.intake.close()
        self.faults.held.clear()
        raise TimeoutError

    async def check(self, fault: Fault) -> None:
        """What is left is what was promised, and nothing else."""
        self.faults.arm(0, Fault.BEFORE)
        await self._check_owner(fault)
        page = await self.parts.shelf.page(AGENT, None, 0)
        assert [5, 4] == [one.generation for one in page.snapshots]
        for one in page.snapshots:
            assert self.made[one.generation] == await downloaded(
                self.parts.downloads, one
            )
        kept = {
            records.segment_key(AGENT.town, segment.blake3)
            for one in page.snapshots
            for segment in one.content.segments
        }
        assert kept == set(await self._segments())
        assert [records.record_key(AGENT, n).rpartition("/")[2] for n in (4, 5)] == (
            await self.blobs.list(records.record_folder(AGENT))
        )
        for folder in ("staging", "scratch", "store/scratch"):
            left = [one for one in (self._folder / folder).rglob("*") if one.is_file()]
            assert [] == left

    async def _check_owner(self, fault: Fault) -> None:
        state = await self.parts.shelf.state(AGENT)
        if state.instance or fault is not Fault.TORN:
            assert LATE == Claim(state.epoch, state.instance, state.boot_id)
            return
        # A record that was read torn led to a rebuild: the one with the lease says so
        # again, and nobody from before.
        assert LATE.epoch == state.epoch
        with pytest.raises(ServiceError) as refused:
            await self.parts.shelf.advance(AGENT, TWO)
        assert Reason.LEASE_FENCED is refused.value.reason
        await self.parts.shelf.advance(AGENT, LATE)

    async def _segments(self) -> list[str]:
        folder = records.segment_folder(AGENT.town)
        return [
            f"{folder}/{part}/{name}"
            for part in await self.blobs.list(folder)
            for name in await self.blobs.list(f"{folder}/{part}")
        ]


Opened = Callable[[], Any]


@pytest.fixture(params=["in memory", pytest.param("real", marks=pytest.mark.redis)])
async def lives(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[tuple[Opened, int]]:
    """Makes a life on empty stores, and by which step calls are counted up."""
    if request.param == "in memory":
        yield _in_memory(tmp_path), STRIDES[0]
        return
    valkey: ValkeyProcess = request.getfixturevalue("valkey")
    store = await connect(valkey.url)
    yield _on_real_ones(tmp_path, valkey, store), STRIDES[1]
    await store.aclose()


def _emptied(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    for name in ("staging", "scratch", "local"):
        (folder / name).mkdir(parents=True)
    return folder


def _in_memory(tmp_path: Path) -> Opened:
    @asynccontextmanager
    async def opened() -> AsyncIterator[Life]:
        folder = _emptied(tmp_path / "life")
        faults = Faults()
        catalog = FaultyPort(MemoryCatalog(), faults, folder)
        yield Life(MemoryBlobs(folder / "local"), catalog, folder, faults)

    return opened


def _on_real_ones(tmp_path: Path, valkey: ValkeyProcess, store: Store) -> Opened:
    execute = store.execute_command

    @asynccontextmanager
    async def opened() -> AsyncIterator[Life]:
        valkey.flush()
        folder = _emptied(tmp_path / "life")
        faults = Faults()
        store.execute_command = execute  # type: ignore[method-assign]
        fault_commands(store, faults)
        catalog = RedisCatalog(store, Durability(store))
        blobs = FileBlobs.open(folder / "store", "test")
        try:
            yield Life(blobs, catalog, folder, faults)
        finally:
            blobs.close()

    return opened


@pytest.mark.parametrize("fault", Fault)
async def test_a_fault_at_every_call(lives: tuple[Opened, int], fault: Fault) -> None:
    """Whichever call to a store it is: no acknowledged generation is lost or changed,
    no stale one is committed, what is repeated is one, and nothing is left over."""
    opened, stride = lives
    for at in itertools.count(1 + SEED % stride, stride):
        async with opened() as life:
            life.faults.arm(at, fault)
            try:
                await life.play()
                struck, calls = life.faults.struck, len(life.faults.calls)
                await life.check(fault)
            except Exception as error:
                error.add_note(
                    f"{fault} at call {at}: {life.faults.calls[at - 1 : at]}"
                )
                raise
        if not struck:
            sys.stderr.write(f"{fault} at {calls} calls, in steps of {stride}\n")
            return
