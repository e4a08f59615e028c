"""What a dead supervisor left running is found by what it wrote down, by no guess."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from services.chassis.names import AgentName
from services.supervisor.ledger import Ledger
from services.supervisor.process_tree import RUN_MARK, identify

NAME = AgentName("t", "a")


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger")


def sleeper(run: str) -> subprocess.Popen[bytes]:
    environ = {**os.environ, RUN_MARK: run}
    return subprocess.Popen(["sleep", "60"], env=environ, start_new_session=True)


async def test_the_run_that_was_meant_to_start_is_ended(ledger: Ledger) -> None:
    """Death between the intent and the start leaves a process that is found by mark."""
    process = sleeper("run-1")
    ledger.intend(NAME, "run-1")

    assert 1 == await ledger.end(NAME)

    assert -9 == process.wait(10)
    assert [] == ledger.agents("t")


async def test_strangers_are_left_alone(ledger: Ledger) -> None:
    """A process that is not of the recorded run is nobody's to kill."""
    stranger = sleeper("run-2")
    try:
        ledger.intend(NAME, "run-1")
        assert 0 == await ledger.end(NAME)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait(10)


async def test_a_session_whose_leader_is_gone_is_a_strangers(
    ledger: Ledger, tmp_path: Path
) -> None:
    """Its number may be that of a process of another boot, or of one long ago."""
    script = "sleep 60 >/dev/null 2>&1 & echo $!"
    with subprocess.Popen(
        ["sh", "-c", script], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as leader:
        assert leader.stdout is not None
        stranger = identify(int(leader.stdout.readline()))
    assert stranger is not None
    try:
        (tmp_path / "ledger/a.json").write_text(
            f'{{"run": "run-1", "process": [{leader.pid}, 1, "another-boot"]}}'
        )
        assert 0 == await ledger.end(NAME)
        assert stranger.alive()
    finally:
        os.kill(stranger.pid, signal.SIGKILL)


async def test_a_reused_pid_is_a_stranger(ledger: Ledger, tmp_path: Path) -> None:
    """A pid alone proves nothing: start time and boot must match too."""
    stranger = sleeper("other")
    try:
        (tmp_path / "ledger/a.json").write_text(
            f'{{"run": "run-1", "process": [{stranger.pid}, 1, "another-boot"]}}'
        )
        assert 0 == await ledger.end(NAME)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait(10)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"run": 1, "process": ["x"]}', "7"])
async def test_an_unreadable_entry_ends_nothing(
    ledger: Ledger, tmp_path: Path, text: str
) -> None:
    """A torn file is not a licence to kill, and is removed."""
    (tmp_path / "ledger/a.json").write_text(text)

    assert 0 == await ledger.end(NAME)

    assert [] == ledger.agents("t")
