"""One child: seen ready, its words kept, its end told."""

import asyncio
import sys
from pathlib import Path

import pytest

from services.cli.child import Child, Program, rotate, tail
from services.cli.identity import identify
from services.cli.problems import Problem

READY = "print('ready grpc://127.0.0.1:7', flush=True)\n"
WAIT = "import signal; signal.pause()\n"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "child.log"


def program(log: Path, code: str, **options: float) -> Program:
    return Program(
        name="child",
        argv=[sys.executable, "-c", code],
        log=log,
        stop_s=options.get("stop_s", 5.0),
        environ=dict,
        ready_s=options.get("ready_s", 5.0),
    )


async def test_a_child_is_ready_when_it_says_so(log: Path) -> None:
    """What stands behind `ready` is where it serves; other lines go to its log."""
    child = await Child.start(program(log, "print('hello')\n" + READY + WAIT))

    assert "grpc://127.0.0.1:7" == await child.wait_ready()

    await child.stop()
    assert ["hello"] == tail(log)
    assert not child.identity.alive


async def test_a_child_that_dies_first_says_why(log: Path) -> None:
    """The end of the log of a child that did not come up is shown."""
    child = await Child.start(program(log, "raise SystemExit('no such key')"))

    with pytest.raises(Problem, match="ended with exit code 1") as refused:
        await child.wait_ready()

    assert "no such key" in refused.value.detail


async def test_a_child_that_says_nothing_is_given_up(log: Path) -> None:
    """A child that neither serves nor ends is not waited for without end."""
    child = await Child.start(program(log, WAIT, ready_s=0.05))

    with pytest.raises(Problem, match=r"was not ready within 0\.05 s"):
        await child.wait_ready()
    await child.stop()


async def test_a_stubborn_child_is_killed(log: Path) -> None:
    """A child that ignores SIGTERM ends all the same, when its time is over."""
    child = await Child.start(program(log, STUBBORN + READY + WAIT, stop_s=0.05))
    await child.wait_ready()

    await child.stop()

    assert -9 == child.process.returncode


async def test_a_stubborn_child_takes_its_children_along(
    log: Path, tmp_path: Path
) -> None:
    """Whoever a stubborn child has started ends with it."""
    fork = (
        "import subprocess, sys\n"
        "one = subprocess.Popen(['sleep', '60'], start_new_session=True)\n"
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(one.pid))\n"
    )
    child = await Child.start(program(log, STUBBORN + fork + READY + WAIT, stop_s=0.05))
    await child.wait_ready()
    grandchild = identify(int((tmp_path / "pid").read_text()))
    assert grandchild is not None

    await child.stop()

    assert not grandchild.alive


async def test_a_line_without_end_is_no_trap(log: Path) -> None:
    """A child that prints a megabyte without a newline still gets ready."""
    chatty = "import sys; sys.stdout.write('x' * (1 << 20) + '\\n')\n"
    child = await Child.start(program(log, chatty + READY + WAIT))

    await child.wait_ready()

    await child.stop()
    assert (1 << 20) + 1 == log.stat().st_size


async def test_a_program_that_is_not_there(log: Path) -> None:
    """A missing program is a Problem with its name, not a traceback."""
    missing = Program("child", ["/nonexistent"], log, 1.0, dict)

    with pytest.raises(Problem, match="cannot run /nonexistent"):
        await Child.start(missing)


async def test_a_log_is_bounded_and_goes_on(log: Path) -> None:
    """A log that grew too large is cut under its writer, its newest part kept."""
    code = READY + "import sys\nsys.stdin.read()\nprint('x' * 100, flush=True)\n"
    child = await Child.start(program(log, code))
    log.write_text("old\n" * 100)

    rotate(log, size_bytes_max=8)
    await asyncio.wait_for(child.wait(), 5)

    assert "old\nold\n" == log.with_name("child.log.1").read_text()
    assert ["x" * 100] == tail(log)
