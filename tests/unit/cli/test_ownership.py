"""One `up` for each directory; what a killed one left is ended, and only that."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import astuple
from pathlib import Path

import pytest

from services.cli.identity import Identity, identify, identify_self
from services.cli.layout import DataDir, Marking
from services.cli.ownership import MARK_VARIABLE, Lock, Record
from services.cli.problems import Problem
from tests.support.waiting import wait_until_sync

SLEEPS = "import time; time.sleep(60)"


@pytest.fixture
def data(tmp_path: Path) -> DataDir:
    data = DataDir.at(tmp_path / "data")
    data.create(Marking("town-1", "embedded"))
    return data


@pytest.fixture
def sleeper() -> Iterator[Identity]:
    """A process of somebody; its parent reaps it when it is killed."""
    with subprocess.Popen([sys.executable, "-c", SLEEPS]) as one:
        identity = identify(one.pid)
        assert identity is not None
        yield identity
        one.kill()


def silent(_: str) -> None:
    """Nobody listens."""


async def test_a_live_owner_keeps_others_out(data: DataDir) -> None:
    """While one `up` lives, another on its directory is refused, named by pid."""
    lock = Lock(data)
    await lock.take(silent)

    with pytest.raises(Problem, match=f"process {os.getpid()}"):
        await Lock(data).take(silent)
    lock.release()


async def test_a_released_lock_can_be_taken(data: DataDir) -> None:
    """After an orderly end the directory is free at once."""
    first, second = Lock(data), Lock(data)
    await first.take(silent)
    first.release()

    await second.take(silent)
    assert second.held
    second.release()


async def test_the_watcher_of_a_dead_owner_is_waited_for(data: DataDir) -> None:
    """A lock whose owner is dead is held by its watcher, which will be done soon."""
    held, notices = Lock(data), list[str]()
    await held.take(silent)
    gone = Identity(1, 1, "an earlier boot")
    data.lock.write_text(json.dumps({"owner": astuple(gone)}))

    def end_watcher(text: str) -> None:
        notices.append(text)
        held.release()

    waiting = Lock(data)
    await waiting.take(end_watcher)

    assert waiting.held
    assert ["waiting for what an earlier `up` left to end"] == notices
    waiting.release()


async def recorded(data: DataDir, **children: Identity) -> Record:
    lock = Lock(data)
    await lock.take(silent)
    record = lock.new_record("some-mark")
    for name, identity in children.items():
        record.add(name, identity)
    lock.release()
    return record


async def test_recorded_children_are_ended(data: DataDir, sleeper: Identity) -> None:
    """What is written down and lives is ended, and the record with it."""
    await recorded(data, registry=sleeper)

    found = Record.read(data)
    assert found is not None
    assert ["registry"] == found.end_all()

    assert not sleeper.alive
    assert Record.read(data) is None


async def test_a_child_that_was_not_written_down_is_found_by_its_mark(
    data: DataDir,
) -> None:
    """A kill between the start of a child and its record leaves nothing either."""
    record = await recorded(data)
    environment = {MARK_VARIABLE: "some-mark"}
    with subprocess.Popen([sys.executable, "-c", SLEEPS], env=environment) as child:
        wait_until_sync(lambda: record.end_all() == ["others"])

        assert -signal.SIGKILL == child.wait(5)


async def test_a_stranger_with_a_recorded_pid_is_left_alone(data: DataDir) -> None:
    """A pid that was given to another process meanwhile proves nothing."""
    reused = Identity(os.getpid(), 1, identify_self().boot_id)
    await recorded(data, registry=reused)

    found = Record.read(data)

    assert found is not None
    assert [] == found.end_all()


async def test_a_copied_directory_owns_no_processes(
    data: DataDir, tmp_path: Path, sleeper: Identity
) -> None:
    """A copy of a running plane's directory must not end that plane."""
    await recorded(data, registry=sleeper)
    shutil.copytree(data.root, tmp_path / "copy")

    assert Record.read(DataDir.at(tmp_path / "copy")) is None
    assert sleeper.alive
