"""Processes known by more than their pid, and ended with all below them."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest

from services.cli.identity import (
    Identity,
    descendants,
    identify,
    identify_self,
    kill_trees,
    marked,
)
from tests.support.waiting import wait_until_sync

WAITS = "import sys; sys.stdin.read()"
# A child with a child of its own in another session, which says its pid.
HAS_A_CHILD = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"],
                         start_new_session=True)
print(child.pid, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def waiting() -> Iterator[subprocess.Popen[bytes]]:
    """A process that does nothing until its input ends."""
    with subprocess.Popen([sys.executable, "-c", WAITS], stdin=subprocess.PIPE) as one:
        yield one
        one.kill()


def known(pid: int) -> Identity:
    found = identify(pid)
    assert found is not None
    return found


def test_a_process_lives_until_it_ends(waiting: subprocess.Popen[bytes]) -> None:
    """A process counts as alive while it runs, not while it is a zombie."""
    identity = known(waiting.pid)
    assert identity.alive

    waiting.kill()

    wait_until_sync(lambda: not identity.alive, what="a zombie is not alive")
    assert waiting.returncode is None


def test_a_reused_pid_is_another_process() -> None:
    """Whoever has the pid now is not taken for the one that was meant."""
    myself = identify_self()

    assert myself.alive
    assert not replace(myself, started_ticks=myself.started_ticks - 1).alive
    assert not replace(myself, boot_id="another boot").alive


def test_a_signal_for_a_reused_pid_is_not_sent() -> None:
    """A stranger that got the pid is left alone."""
    stranger = replace(identify_self(), started_ticks=1)

    assert not stranger.send(signal.SIGKILL)


def test_killing_a_tree_reaches_other_sessions() -> None:
    """All descendants die with the root, whatever session they are in."""
    with subprocess.Popen(
        [sys.executable, "-c", HAS_A_CHILD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as parent:
        assert parent.stdout is not None
        child = known(int(parent.stdout.readline()))

        killed = kill_trees([known(parent.pid)])

        assert {parent.pid, child.pid} == {one.pid for one in killed}
        assert not child.alive


def test_nothing_descends_from_a_dead_process(
    waiting: subprocess.Popen[bytes],
) -> None:
    """The pid of a dead root says nothing about who is below it."""
    gone = replace(known(waiting.pid), started_ticks=1)

    assert [] == descendants([gone])


def test_a_mark_in_the_environment_finds_its_processes() -> None:
    """What was started with the mark is found, and nothing else."""
    with subprocess.Popen(
        [sys.executable, "-c", WAITS],
        stdin=subprocess.PIPE,
        env={"SOME_MARK": "f00"},
    ) as one:
        wait_until_sync(lambda: marked("SOME_MARK", "f00"))

        assert [one.pid] == [found.pid for found in marked("SOME_MARK", "f00")]
        assert [] == marked("SOME_MARK", "f0")
        one.kill()
