"""A keeper with a stand-in for the supervisor: brought back when it is killed, else
ended with all below it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.supervisor.process_tree import Process, read_process
from tests.support.waiting import wait_until_sync

# Notes its starts and its token, does what its folder says at its first start, then
# waits for its keeper's end. Its agent has left its session and is deaf to SIGTERM.
SUPERVISOR = """
import json, os, pathlib, signal, socket, subprocess, sys, time
folder = pathlib.Path(sys.argv[1])
starts = folder / "starts"
first = not starts.exists()
with starts.open("a") as file:
    print(os.getpid(), os.environ.get("GASTOWN_CONTAINER_TOKEN", ""), file=file)
keeper = socket.socket(fileno=os.dup(0))
if first:
    deaf = "trap '' TERM; while :; do sleep 60; done"
    agent = subprocess.Popen(["sh", "-c", deaf], start_new_session=True)
    (folder / "agent").write_text(str(agent.pid))
for line in (folder / ("first" if first else "again")).read_text().splitlines():
    message = json.loads(line)
    if "exit" in message:
        sys.exit(message["exit"])
    if "sleep" in message:
        time.sleep(message["sleep"])
    if "good_for" in message:
        message = {"good_until": time.monotonic() + message["good_for"]}
    keeper.send(json.dumps(message).encode())
(folder / "ready").write_text(str(os.getpid()))
keeper.send(b"{}")
assert not keeper.recv(100)
(folder / "left").write_text("the keeper has ended")
"""
KEEPER = """
import sys
from services.supervisor.keeper import Keeper
sys.exit(Keeper(sys.argv[1:]).run())
"""


class Kept:
    """A keeper, and what its supervisors do."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *first: object, again: tuple[object, ...] = ()) -> None:
        for name, messages in (("first", first), ("again", again)):
            lines = "".join(json.dumps(each) + "\n" for each in messages)
            (self.folder / name).write_text(lines)
        supervisor = [sys.executable, "-c", SUPERVISOR, str(self.folder)]
        self.process = subprocess.Popen(
            [sys.executable, "-c", KEEPER, *supervisor],
            env={**os.environ, "GASTOWN_CONTAINER_TOKEN": "first"},
            start_new_session=True,
        )

    def wait_starts(self, count: int) -> list[list[str]]:
        """Pid and token of each supervisor, when so many were started."""

        def starts() -> list[list[str]]:
            path = self.folder / "starts"
            lines = path.read_text().splitlines() if path.exists() else []
            return [line.split(" ") for line in lines] if len(lines) >= count else []

        return wait_until_sync(starts, what=f"{count} supervisors", limit_s=20)

    def wait_ready(self, count: int = 1) -> int:
        """The pid of a supervisor that has said what it has to say."""
        pid = self.wait_starts(count)[count - 1][0]
        ready = self.folder / "ready"
        wait_until_sync(
            lambda: ready.exists() and ready.read_text() == pid, what="it is ready"
        )
        return int(pid)

    @property
    def agent(self) -> Process | None:
        return read_process(int((self.folder / "agent").read_text()))

    @property
    def keeper(self) -> subprocess.Popen[bytes]:
        assert self.process is not None
        return self.process


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    kept = Kept(tmp_path)
    yield kept
    if kept.process is not None:
        kept.process.terminate()
        kept.process.wait(20)


def alive(process: Process | None) -> bool:
    return process is not None and not process.dead


def test_one_that_is_killed_is_brought_back_and_its_agents_live(kept: Kept) -> None:
    """They are the keeper's children then, so they end with the container."""
    kept.start()
    first = kept.wait_ready()

    os.kill(first, signal.SIGKILL)
    second = kept.wait_ready(2)

    assert first != second
    agent = kept.agent
    assert agent is not None
    assert (True, kept.keeper.pid) == (alive(agent), agent.parent)
    assert read_process(first) is None


def test_one_that_ends_by_itself_ends_the_container(kept: Kept) -> None:
    """With its own code, and with nothing left below it."""
    kept.start({"exit": 7})

    assert 7 == kept.keeper.wait(20)
    assert not alive(kept.agent)
    assert 1 == len(kept.wait_starts(1))


def test_a_signal_to_end_is_handed_on(kept: Kept) -> None:
    """One that dies of it is not brought back."""
    kept.start()
    kept.wait_ready()

    kept.keeper.send_signal(signal.SIGTERM)

    assert 128 + signal.SIGTERM == kept.keeper.wait(20)
    assert not alive(kept.agent)
    assert 1 == len(kept.wait_starts(1))


def test_a_signal_before_it_can_take_one_waits_for_it(kept: Kept) -> None:
    """Also where it dies first: what its agents wrote is saved by the next."""
    kept.start()
    os.kill(kept.wait_ready(), signal.SIGKILL)
    kept.keeper.send_signal(signal.SIGTERM)

    assert 128 + signal.SIGTERM == kept.keeper.wait(20)
    second = kept.wait_starts(2)[1][0]
    assert second == (kept.folder / "ready").read_text()


def test_who_insists_does_not_wait(kept: Kept) -> None:
    """One that never says that it serves is killed with all below it."""
    kept.start({"sleep": 60})
    kept.wait_starts(1)
    noted = kept.folder / "agent"
    wait_until_sync(
        lambda: noted.exists() and noted.read_text(), what="its agent is noted"
    )

    kept.keeper.send_signal(signal.SIGTERM)
    kept.keeper.send_signal(signal.SIGINT)

    assert 128 + signal.SIGKILL == kept.keeper.wait(20)
    assert not alive(kept.agent)


def test_of_a_signal_to_the_whole_group_it_hears_once(kept: Kept) -> None:
    """As of Ctrl-C: heard twice it would mean that nothing is to be saved."""
    kept.start()
    pid = kept.wait_ready()

    assert os.getpgid(pid) != os.getpgid(kept.keeper.pid)


def test_the_end_of_the_keeper_is_noticed(kept: Kept) -> None:
    """Whoever it kept must end as well."""
    kept.start()
    pid = kept.wait_ready()

    kept.keeper.kill()

    wait_until_sync((kept.folder / "left").exists, what="the supervisor hears of it")
    wait_until_sync(lambda: not alive(read_process(pid)), what="it ends")
    agent = kept.agent
    assert agent is not None
    os.kill(agent.pid, signal.SIGKILL)


def test_a_successor_is_given_the_newest_token(kept: Kept) -> None:
    """The one that the container was started with may have expired."""
    kept.start({"token": "second"})
    os.kill(kept.wait_ready(), signal.SIGKILL)

    assert ["first", "second"] == [start[1] for start in kept.wait_starts(2)]


def test_agents_stand_still_when_nobody_has_renewed_their_leases(kept: Kept) -> None:
    """From the deadline that the dead one gave, until a successor gives another."""
    kept.start({"good_for": 1.0})
    os.kill(kept.wait_ready(), signal.SIGKILL)
    kept.wait_ready(2)
    begun = time.monotonic()

    wait_until_sync(
        lambda: (agent := kept.agent) and agent.state == "T", what="it stands still"
    )
    assert time.monotonic() - begun < 10
    successor = read_process(int(kept.wait_starts(2)[1][0]))
    assert successor is not None
    assert "T" != successor.state


@pytest.mark.parametrize(
    "renewal", [{"good_for": 60.0}, {"good_until": None}], ids=["later", "for-ever"]
)
def test_agents_go_on_when_their_leases_are_renewed(
    kept: Kept, renewal: dict[str, float | None]
) -> None:
    """Before that it stood still, and nobody else knows of that."""
    kept.start({"good_for": 0.5}, again=({"sleep": 2.0}, renewal))
    os.kill(kept.wait_ready(), signal.SIGKILL)
    wait_until_sync(
        lambda: (agent := kept.agent) and agent.state == "T", what="it stands still"
    )

    kept.wait_ready(2)

    wait_until_sync(
        lambda: (agent := kept.agent) and agent.state != "T", what="it goes on"
    )
