"""The only module that forks, signals and reaps.

A child's pid stays its own until its whole tree is gone: the exit is first seen with
WNOWAIT, the tree is killed, and only then is the zombie reaped. Nothing here ever
waits for "any child", so no other part of the process can lose one of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import subprocess
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from services.chassis.errors import Reason, ServiceError
from services.supervisor.process_tree import (
    RUN_MARK,
    ProcessIdentity,
    identify,
    members,
    newest_member,
    table,
)
from services.supervisor.runtime import ExitReport, Stream

READ_BYTES = 64 * 1024  # a whole default pipe at once
WRITE_S = 10.0  # a child that reads nothing for so long is not listening
KILL_S = 10.0  # what is not dead by then is stuck in the kernel
POLL_S = 0.01
NEWEST_LOOKS = 50  # some 2 ms
INHERITED = {"PATH": os.defpath, "LANG": "C.UTF-8"}  # and what they are by default

_PR_SET_CHILD_SUBREAPER = 36

ChunkSink = Callable[[Stream, bytes], None]


@dataclass(frozen=True, slots=True)
class Command:
    """What to run: nothing of our own environment goes in but PATH and LANG."""

    argv: Sequence[str]
    cwd: Path
    environ: Mapping[str, str] = field(default_factory=dict)
    run: str = ""  # marks every process of the tree
    stdin: bool = False

    def environment(self) -> dict[str, str]:
        """The child's whole environment."""
        inherited = {k: os.environ.get(k, default) for k, default in INHERITED.items()}
        mark = {RUN_MARK: self.run} if self.run else {}
        return inherited | dict(self.environ) | mark


@dataclass(frozen=True, slots=True)
class Finished:
    """A command that was run to its end."""

    code: int  # negative: the signal that ended it
    stdout: str
    stderr: str


class Child:
    """One process and everything that descends from it. Made by `start` only."""

    def __init__(
        self, process: subprocess.Popen[bytes], command: Command, sink: ChunkSink
    ) -> None:
        identity = identify(process.pid)
        assert identity is not None, "an unreaped child has an entry in /proc"
        self.identity = identity
        self._known: set[ProcessIdentity] = {identity}
        self._process = process
        self._run = command.run
        self._sink = sink
        self._loop = asyncio.get_running_loop()
        self._requested = False
        self._unwritten = bytearray()
        self._writing = asyncio.Lock()
        self._ended = asyncio.Event()
        self._pidfd = os.pidfd_open(process.pid)
        self._loop.add_reader(self._pidfd, self._on_exit)
        self._readers = {Stream.STDOUT: process.stdout, Stream.STDERR: process.stderr}
        for stream, pipe in self._readers.items():
            assert pipe is not None
            os.set_blocking(pipe.fileno(), False)
            self._loop.add_reader(pipe.fileno(), self._on_readable, stream)
        if process.stdin is not None:
            os.set_blocking(process.stdin.fileno(), False)
        self._finish = asyncio.create_task(self._see_out(), name=f"child-{self.pid}")

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        """False from the moment the process itself has ended."""
        return not self._ended.is_set()

    async def write(self, data: bytes) -> None:
        """Writes all of it to stdin, in order; what a slow reader left over goes first
        next time, so lines are never cut in the middle."""
        async with self._writing:
            self._unwritten += data
            try:
                async with asyncio.timeout(WRITE_S):
                    while self._unwritten:
                        await self._write_some()
            except (TimeoutError, BrokenPipeError, ValueError) as error:
                raise ServiceError(
                    Reason.RUNTIME_UNREACHABLE,
                    "cannot hand the program its input: it does not read stdin",
                    pid=self.pid,
                ) from error

    async def terminate(self, grace_s: float) -> ExitReport:
        """SIGTERM, a time to end well, then SIGKILL to the whole tree."""
        if self.running:
            self._requested = True
            await self._look_around()
            send(self.identity, signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace_s):
                    await self._ended.wait()
        if self.running:
            await self._look_around()
            send(self.identity, signal.SIGKILL)
        return await self.wait()

    async def wait(self) -> ExitReport:
        """Waits for the process, then for the end of its tree and of its output."""
        return await asyncio.shield(self._finish)

    async def ended(self) -> None:
        """Waits for the process alone, however its tree fares."""
        await self._ended.wait()

    async def _look_around(self) -> None:
        """Notes who belongs to the tree while its root lives: a child that has shed
        mark and session is only found by its parent."""
        found = await asyncio.to_thread(members, [self._run], [self.identity])
        self._known |= set(found)

    async def _see_out(self) -> ExitReport:
        await self._ended.wait()
        killed, survivors = await kill_tree([self._run], self._known)
        code = self._process.wait()  # a zombie: returns at once
        _owned.discard(self.pid)
        for stream in list(self._readers):
            self._drain(stream)
        if self._process.stdin is not None:
            self._process.stdin.close()
        return ExitReport(
            code=code if code >= 0 else None,
            signal=-code if code < 0 else None,
            requested=self._requested,
            killed=killed,
            survivors=survivors,
        )

    def _on_exit(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._ended.set()

    def _on_readable(self, stream: Stream) -> bool:
        """Reads once; False when there is nothing, or nothing more."""
        pipe = self._readers.get(stream)
        try:
            data = os.read(pipe.fileno(), READ_BYTES) if pipe else b""
        except BlockingIOError:
            return False
        if not data:
            self._close(stream)
            return False
        self._sink(stream, data)
        return True

    def _drain(self, stream: Stream) -> None:
        while self._on_readable(stream):
            pass
        self._close(stream)

    def _close(self, stream: Stream) -> None:
        pipe = self._readers.pop(stream, None)
        if pipe is not None:
            self._loop.remove_reader(pipe.fileno())
            pipe.close()

    async def _write_some(self) -> None:
        assert self._process.stdin is not None, "the command was started without stdin"
        fd = self._process.stdin.fileno()
        try:
            written = os.write(fd, self._unwritten[:READ_BYTES])
            del self._unwritten[:written]
        except BlockingIOError:
            writable = asyncio.Event()
            self._loop.add_writer(fd, writable.set)
            try:
                await writable.wait()
            finally:
                self._loop.remove_writer(fd)


def start(command: Command, sink: ChunkSink) -> Child:
    """Starts a child in a session of its own; `sink` gets its output as it comes.

    Raises RUNTIME_MISSING when the program is not there, START_FAILED when the kernel
    refuses. Blocks for the fork only: vfork, some milliseconds whatever our size.
    """
    try:
        process = subprocess.Popen(
            list(command.argv),
            cwd=command.cwd,
            env=command.environment(),
            stdin=subprocess.PIPE if command.stdin else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
        )
    except (FileNotFoundError, PermissionError, NotADirectoryError) as error:
        raise ServiceError(
            Reason.RUNTIME_MISSING,
            f"cannot run {command.argv[0]} in {command.cwd} ({error.strerror}): check "
            "that the program is installed and executable and that the folder exists",
        ) from error
    except (OSError, ValueError) as error:
        text = f"cannot start {command.argv[0]}: {error}"
        raise ServiceError(Reason.START_FAILED, text) from error
    _owned.add(process.pid)
    return Child(process, command, sink)


async def run(
    command: Command, timeout_s: float, output_max: int = 1 << 20
) -> Finished:
    """Runs a command to its end and gives the first `output_max` bytes of each stream.

    What it leaves behind is killed with it, so it gets a mark of its own whatever the
    command says. Raises TimeoutError after the whole tree was killed.
    """
    kept = {Stream.STDOUT: bytearray(), Stream.STDERR: bytearray()}

    def keep(stream: Stream, data: bytes) -> None:
        kept[stream] += data[: output_max - len(kept[stream])]

    child = start(replace(command, run=f"once-{uuid.uuid4()}"), keep)
    try:
        async with asyncio.timeout(timeout_s):
            report = await child.wait()
    finally:
        await asyncio.shield(child.terminate(grace_s=0))  # at once when it has ended
    code = report.code if report.code is not None else -(report.signal or 0)
    out, err = (bytes(kept[s]).decode(errors="replace") for s in Stream)
    return Finished(code, out, err)


def send(identity: ProcessIdentity, number: signal.Signals) -> bool:
    """Signals exactly this process; False when it is gone or its pid is another's."""
    with contextlib.suppress(OSError):
        pidfd = os.pidfd_open(identity.pid)
        try:
            if identify(identity.pid) == identity:
                signal.pidfd_send_signal(pidfd, number)
                return True
        finally:
            os.close(pidfd)
    return False


async def kill_tree(
    runs: Iterable[str], roots: Iterable[ProcessIdentity] = ()
) -> tuple[int, tuple[int, ...]]:
    """Kills all processes of these runs and roots; returns how many, and who survived.

    Everybody is stopped first, round after round until nobody new is found: a stopped
    process cannot fork, so none is missed. Proven: it ends with an empty search.
    """
    runs, roots = [name for name in runs if name], set(roots)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + KILL_S
    stopped: set[ProcessIdentity] = set()
    while True:
        found = set(await asyncio.to_thread(_search, runs, roots | stopped))
        new = found - stopped
        if not found or loop.time() > deadline:
            return len(stopped - found), tuple(sorted(p.pid for p in found))
        stopped |= new
        if not new:
            for identity in found:
                send(identity, signal.SIGKILL)
            await asyncio.sleep(POLL_S)


def _search(runs: list[str], roots: set[ProcessIdentity]) -> list[ProcessIdentity]:
    """Finds and stops. When nobody is found the newest process is looked at again and
    again, for one that is always gone before a whole search comes to it."""
    if found := members(runs, roots):
        for identity in found:
            send(identity, signal.SIGSTOP)
        return found
    for _ in range(NEWEST_LOOKS if runs else 0):
        newest = newest_member(runs)
        if newest and send(newest, signal.SIGSTOP):
            return [newest]
    return []


def leftovers(
    runs: Iterable[str], identities: Iterable[ProcessIdentity] = ()
) -> list[ProcessIdentity]:
    """What still lives of a dead predecessor, from what it had written down."""
    return members([name for name in runs if name], identities)


def adopt_orphans() -> None:
    """Makes this process the parent of its children's orphans, and reaps them.

    Call once, in the main thread of the supervisor, with its loop running.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "cannot become a subreaper")
    asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, reap_orphans)


def reap_orphans() -> None:
    """Reaps zombies that were never ours: in a session of their own, started elsewhere.

    Children of other parts of this process stand in our session and are left alone.
    """
    session = os.getsid(0)
    for process in table().values():
        ours = process.parent == os.getpid() and process.session != session
        if ours and process.dead and process.pid not in _owned:
            with contextlib.suppress(ChildProcessError):
                os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG)


_owned: set[int] = set()  # pids that a Child will reap
