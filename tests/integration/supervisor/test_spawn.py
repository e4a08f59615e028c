"""Children are started clean, heard out, and ended with everything they started."""

import asyncio
import contextlib
import os
import signal
import sys
import uuid
from pathlib import Path

import pytest

from services.chassis.errors import Reason, ServiceError
from services.supervisor import child as child_module
from services.supervisor import spawn, tree_kill
from services.supervisor.process_tree import ProcessIdentity, boot_id, identify, table
from services.supervisor.runtime import ExitReport, Stream
from tests.support import children
from tests.support.children import marked, python, shell
from tests.support.waiting import wait_until

pytestmark = pytest.mark.integration


class Heard:
    """A sink that keeps everything."""

    def __init__(self):
        self.out, self.err = bytearray(), bytearray()

    def __call__(self, stream, data):
        (self.out if stream is Stream.STDOUT else self.err).extend(data)


@pytest.fixture
def run():
    return f"test-{uuid.uuid4()}"


@pytest.fixture
def begin(tmp_path, run):
    """Starts a command marked with `run`; what is left at the end is a failure."""

    def start(argv, sink=lambda stream, data: None, **fields):
        return spawn.start(spawn.Command(argv, tmp_path, run=run, **fields), sink)

    yield start
    assert [] == marked(run)


async def test_a_child_inherits_nothing_but_path_and_lang(begin, run, monkeypatch):
    """No token or setting of ours reaches an agent."""
    monkeypatch.setenv("GASTOWN_CONTAINER_TOKEN", "secret")
    monkeypatch.setenv("LANG", "C.UTF-8")
    heard = Heard()

    await begin(("/usr/bin/env",), heard, environ={"OWN": "1"}).wait()

    names = {line.partition("=")[0] for line in heard.out.decode().splitlines()}
    assert {"PATH", "LANG", "OWN", "TOWNKEEPER_RUN"} == names


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        pytest.param("exit 0", ExitReport(code=0, signal=None), id="well"),
        pytest.param("exit 7", ExitReport(code=7, signal=None), id="badly"),
        pytest.param("kill -9 $$", ExitReport(code=None, signal=9), id="by a signal"),
        pytest.param(
            children.DAEMON.replace("; sleep", "; true"),
            ExitReport(code=0, signal=None, killed=1),
            id="with a daemon left behind",
        ),
    ],
)
async def test_an_end_is_reported_once_the_tree_is_gone(begin, run, script, expected):
    """Code, signal, and how many others had to be killed."""
    report = await begin(shell(script)).wait()

    assert expected == report
    assert [] == marked(run)


async def test_all_output_comes_before_the_end(begin):
    """Last words are heard, of both streams."""
    heard = Heard()

    await begin(shell("echo out; echo err >&2; seq 20000"), heard).wait()

    assert heard.out.endswith(b"19999\n20000\n")
    assert b"err\n" == heard.err


@pytest.mark.parametrize(
    ("argv", "cwd"),
    [
        pytest.param(("/nowhere/agent",), "/", id="no program"),
        pytest.param(("/etc/passwd",), "/", id="not executable"),
        pytest.param(("/bin/true",), "/nowhere", id="no folder"),
    ],
)
async def test_a_program_that_is_not_there_is_named(argv, cwd):
    """The error says what to check."""
    with pytest.raises(ServiceError) as refused:
        spawn.start(spawn.Command(argv, Path(cwd)), lambda stream, data: None)

    assert Reason.RUNTIME_MISSING is refused.value.reason
    assert refused.value.message.startswith(f"cannot run {argv[0]} in {cwd}")


@pytest.mark.parametrize(
    ("script", "size"),
    [
        pytest.param(children.CHILD, 2, id="child"),
        pytest.param(children.OWN_SESSION, 2, id="child in its own session"),
        pytest.param(children.DAEMON, 3, id="daemon by double fork"),
        pytest.param(children.DEAF, 2, id="deaf to SIGTERM"),
    ],
)
async def test_a_stop_ends_the_whole_tree(begin, run, script, size):
    """Whatever a tool started, and however it left its parent."""
    child = begin(shell(script))
    await wait_until(lambda: len(marked(run)) >= size - (script is children.DAEMON))

    report = await child.terminate(grace_s=0.2)

    assert report.requested
    assert () == report.survivors
    assert [] == marked(run)


async def test_a_child_that_shed_mark_and_session_dies_too(begin, tmp_path):
    """Its parent is asked for it while the parent still lives."""
    child = begin(shell(children.UNMARKED))
    await wait_until(lambda: 2 == len([p for p in _in(tmp_path) if p.session == p.pid]))

    await child.terminate(grace_s=5)

    assert [] == _in(tmp_path)


async def test_a_chain_that_forks_for_ever_is_caught(begin, run):
    """Stopping everybody first leaves nobody to fork on."""
    child = begin(python(children.RUNAWAY))
    await child.ended()

    report = await child.wait()

    assert () == report.survivors
    assert [] == marked(run)


async def test_a_stopped_child_can_be_ended(begin):
    """A frozen run does not outlive its stop."""
    child = begin(("/bin/sleep", "60"))
    tree_kill.send(child.identity, signal.SIGSTOP)

    report = await child.terminate(grace_s=0.1)

    assert report.signal in (signal.SIGTERM, signal.SIGKILL)


async def test_an_end_of_its_own_is_not_requested(begin):
    """Stopping what has ended changes nothing of its report."""
    child = begin(shell("exit 0"))
    await child.ended()

    assert not (await child.terminate(grace_s=1)).requested


async def test_nothing_is_left_open(begin):
    """No descriptor and no zombie stays behind, however children end."""
    await begin(shell("exit 0")).wait()
    before = len(os.listdir("/proc/self/fd"))

    for script in ("exit 0", "exit 1", children.CHILD, children.DAEMON) * 3:
        child = begin(shell(script), stdin=True)
        await child.terminate(grace_s=0)

    assert before == len(os.listdir("/proc/self/fd"))
    mine = [p for p in table().values() if p.parent == os.getpid() and p.dead]
    assert [] == mine


async def test_a_long_input_arrives_whole(begin):
    """More than a pipe holds at once."""
    heard, data = Heard(), os.urandom(300_000)
    child = begin(("/usr/bin/head", "-c", str(len(data))), heard, stdin=True)

    await child.write(data)
    await child.wait()

    assert data == heard.out


async def test_a_child_that_does_not_read_is_told_of(begin, monkeypatch):
    """A write gives up in time, and a later one does not cut a line in the middle."""
    monkeypatch.setattr(child_module, "WRITE_S", 0.2)
    heard, first = Heard(), b"x" * 200_000 + b"\n"
    child = begin(shell("sleep 0.7; exec head -c 200004"), heard, stdin=True)

    with pytest.raises(ServiceError) as refused:
        await child.write(first)
    monkeypatch.setattr(child_module, "WRITE_S", 5)
    await child.write(b"yy\n")
    await child.wait()

    assert Reason.RUNTIME_UNREACHABLE is refused.value.reason
    assert first + b"yy\n" == heard.out


async def test_a_child_that_closed_its_input_is_told_of(begin):
    """Not an error that ends the supervisor."""
    child = begin(shell("exec <&-; echo ready; sleep 5"), heard := Heard(), stdin=True)
    await wait_until(lambda: heard.out)

    with pytest.raises(ServiceError) as refused:
        await child.write(b"hello\n")

    assert Reason.RUNTIME_UNREACHABLE is refused.value.reason
    await child.terminate(grace_s=0)


async def test_a_command_that_takes_too_long_is_killed(tmp_path):
    """With everything that it had started."""
    script = f"{children.DAEMON} & echo started; wait"

    with pytest.raises(TimeoutError):
        await spawn.run(spawn.Command(shell(script), tmp_path), timeout_s=0.3)

    assert [] == _in(tmp_path)


async def test_a_command_gives_the_beginning_of_its_output(tmp_path):
    """Memory stays bounded."""
    command = spawn.Command(shell("seq 100000; exit 3"), tmp_path)

    done = await spawn.run(command, timeout_s=10, output_max=1000)

    assert (3, 1000) == (done.code, len(done.stdout))


def _in(folder):
    """The processes that work in a folder: not one of the marks under test."""
    found = []
    for process in table().values():
        with contextlib.suppress(OSError):
            if Path(os.readlink(f"/proc/{process.pid}/cwd")) == folder:
                found.append(process)
    return found


PREDECESSOR = """
import asyncio, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from services.supervisor import spawn

async def main():
    command = spawn.Command(("/bin/sh", "-c", sys.argv[3]), Path("/"), run=sys.argv[2])
    child = spawn.start(command, lambda stream, data: None)
    print(child.pid, child.identity.started_ticks, flush=True)
    await child.wait()

asyncio.run(main())
"""


async def test_leftovers_of_a_dead_supervisor_are_found_and_ended(run):
    """By the mark it gave them and the process it wrote down."""
    root = Path(__file__).parents[3]
    dead = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PREDECESSOR, root, run, children.DAEMON),
        stdout=asyncio.subprocess.PIPE,
    )
    assert dead.stdout is not None
    pid, ticks = map(int, (await dead.stdout.readline()).split())
    await wait_until(lambda: len(marked(run)) >= 2)
    dead.kill()
    await dead.wait()
    identity = ProcessIdentity(pid, ticks, boot_id())

    found = tree_kill.leftovers([run], [identity])
    killed, survivors = await tree_kill.kill_tree([run], [identity])

    assert identity in found
    assert 2 <= killed
    assert () == survivors
    assert [] == marked(run)


def test_nobody_is_left_of_a_run_that_nobody_knows():
    """An empty record kills nobody."""
    assert [] == tree_kill.leftovers(["", f"test-{uuid.uuid4()}"])


async def test_another_process_under_the_same_pid_is_spared(begin):
    """A recorded pid may have been given to a stranger since."""
    child = begin(("/bin/sleep", "60"))
    reused = ProcessIdentity(child.pid, child.identity.started_ticks - 1, boot_id())
    other_boot = ProcessIdentity(child.pid, child.identity.started_ticks, "another")

    for identity in (reused, other_boot):
        assert not identity.alive()
        assert not tree_kill.send(identity, signal.SIGKILL)
        assert [] == tree_kill.leftovers([], [identity])
    assert child.running
    await child.terminate(grace_s=0)


def test_the_supervisor_never_ends_itself():
    """It may itself run under a mark that it was asked to clear."""
    ourselves = identify(os.getpid())

    assert ourselves is not None
    assert ourselves not in tree_kill.leftovers([], [ourselves])


ADOPTER = """
import asyncio, os, subprocess, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from services.supervisor import spawn
from services.supervisor.process_tree import table

async def main():
    spawn.adopt_orphans()
    # One of somebody else's, in our own session: must stay theirs to reap.
    other = subprocess.Popen(["/bin/sh", "-c", "exit 5"])
    script = "(setsid sleep 0.2 &) ; sleep 0.5"
    command = spawn.Command(("/bin/sh", "-c", script), Path("/"), run="orphans")
    child = spawn.start(command, lambda stream, data: None)
    await child.wait()
    spawn.reap_orphans()
    dead = [p for p in table().values() if p.parent == os.getpid() and p.dead]
    print([p.pid for p in dead] == [other.pid], other.wait())

asyncio.run(main())
"""


async def test_orphans_are_reaped_and_nobody_elses_children():
    """A daemon's zombie is ours to reap once we adopt; a subprocess's is not."""
    root = Path(__file__).parents[3]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", ADOPTER, root), stdout=asyncio.subprocess.PIPE
    )
    said, _ = await process.communicate()

    assert b"True 5\n" == said
