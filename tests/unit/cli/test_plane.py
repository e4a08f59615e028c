"""The children of `up`: order, restarts, and when it gives up."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.cli import plane as plane_module
from services.cli.child import Program
from services.cli.layout import DataDir, Marking
from services.cli.ownership import Lock, Record
from services.cli.plane import Plane
from services.cli.problems import Problem
from tests.support.waiting import wait_until

SERVES = "print('ready x', flush=True)\nimport signal; signal.pause()\n"
DIES = "raise SystemExit(3)"
NAMES = ("valkey", "registry", "snapshots", "gateway", "supervisor")


class Stage:
    """A plane of stand-in children, and what it noticed."""

    def __init__(self, record: Record, folder: Path) -> None:
        self.record = record
        self.notices: list[str] = []
        self._folder = folder
        for name in NAMES:
            self.script(name, SERVES)
        programs = {name: self._program(name) for name in NAMES}
        self.plane = Plane(programs, record, self.notices.append)

    def script(self, name: str, code: str) -> None:
        """What the child does from its next start on."""
        (self._folder / f"{name}.py").write_text(code)

    def _program(self, name: str) -> Program:
        argv = [sys.executable, str(self._folder / f"{name}.py")]
        return Program(name, argv, self._folder / f"{name}.log", 5.0, dict)


@pytest.fixture
async def stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Stage]:
    monkeypatch.setattr(plane_module, "RESTART_PAUSES_S", (0.0, 0.0))
    data = DataDir.at(tmp_path)
    data.create(Marking("town-1", "embedded"))
    lock = Lock(data)
    await lock.take(lambda _: None)
    stage = Stage(lock.new_record("mark"), tmp_path)
    yield stage
    await stage.plane.stop()
    lock.release()


async def test_all_children_are_recorded_and_ended(stage: Stage) -> None:
    """A plane that serves has all its children on record; a stopped one has none."""
    await stage.plane.start()
    living = dict(stage.record.children)
    assert set(NAMES) == set(living)

    await stage.plane.stop()

    assert not any(child.alive for child in living.values())
    assert not stage.record.path.exists()


async def test_the_supervisor_stops_first_and_the_store_last(stage: Stage) -> None:
    """Who saves to others goes before them."""
    await stage.plane.start()
    stage.notices.clear()

    await stage.plane.stop()

    order = ["supervisor", "gateway", "snapshots", "registry", "valkey"]
    assert [f"stopping {name}" for name in order] == stage.notices


async def test_a_dead_child_is_started_again(stage: Stage) -> None:
    """A service that dies is back as another process."""
    await stage.plane.start()
    first = stage.plane.identity("registry")

    first.send(signal.SIGKILL)
    await wait_until(lambda: "registry serves again" in stage.notices)

    assert stage.plane.identity("registry").alive
    assert first != stage.plane.identity("registry")
    assert "registry ended by SIGKILL; starting it again" in stage.notices


async def test_a_child_that_is_killed_while_it_serves_always_comes_back(
    stage: Stage,
) -> None:
    """However often a container is evicted, it was not its fault."""
    await stage.plane.start()
    kills = 2 * (len(plane_module.RESTART_PAUSES_S) + 1)

    for number in range(1, kills + 1):

        def back(times: int = number) -> bool:
            return times == stage.notices.count("supervisor serves again")

        stage.plane.identity("supervisor").send(signal.SIGKILL)
        await wait_until(back, what=f"return {number}")

    assert not stage.plane.failed.done()


async def test_a_child_that_cannot_stay_up_ends_the_plane(stage: Stage) -> None:
    """Restarts in vain end with the child's name and the end of its log."""
    await stage.plane.start()
    stage.script("snapshots", DIES)

    stage.plane.identity("snapshots").send(signal.SIGKILL)

    with pytest.raises(Problem, match="snapshots ended with exit code 3, 3 times"):
        await asyncio.wait_for(asyncio.shield(stage.plane.failed), 5)


async def test_a_child_that_does_not_come_up_fails_the_start(stage: Stage) -> None:
    """The start fails as a whole; nothing that was started stays."""
    stage.script("gateway", DIES)

    with pytest.raises(Problem, match="gateway ended with exit code 3"):
        await stage.plane.start()
    await stage.plane.stop()

    assert {} == stage.record.children


async def test_a_killed_child_stays_dead(stage: Stage) -> None:
    """Whoever kills a child on purpose decides when it comes back."""
    await stage.plane.start()
    supervisor = stage.plane.identity("supervisor")

    killed = await stage.plane.kill_one("supervisor")

    assert [supervisor] == killed
    assert not any("starting it again" in notice for notice in stage.notices)
    await stage.plane.start_one("supervisor")
    assert stage.plane.identity("supervisor").alive
