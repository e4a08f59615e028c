"""The only module that forks and reaps.

Nothing here ever waits for "any child", so no other part of the process can lose one of
its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import subprocess
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from services.chassis.errors import Reason, ServiceError
from services.supervisor import pipes
from services.supervisor.child import Child, ChunkSink
from services.supervisor.process_tree import (
    RUN_MARK,
    ProcessIdentity,
    identify,
    table,
)
from services.supervisor.runtime import Stream

INHERITED = {"PATH": os.defpath, "LANG": "C.UTF-8"}  # and what they are by default

_PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True, slots=True)
class Command:
    """What to run: nothing of our own environment goes in but PATH and LANG."""

    argv: Sequence[str]
    cwd: Path
    environ: Mapping[str, str] = field(default_factory=dict)
    run: str = ""  # marks every process of the tree
    stdin: bool = False
    pipes: Path | None = None  # a folder for named pipes: with them it can be adopted

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


def start(command: Command, sink: ChunkSink) -> Child:
    """Starts a child in a session of its own; `sink` gets its output as it comes.

    Raises RUNTIME_MISSING when the program is not there, START_FAILED when the kernel
    refuses. Blocks for the fork only: vfork, some milliseconds whatever our size.
    """
    try:
        ours, theirs = pipes.make(command.pipes, stdin=command.stdin)
    except OSError as error:
        raise _not_started(command, error) from error
    with theirs, contextlib.ExitStack() as undo:
        undo.enter_context(ours)
        process = _popen(command, theirs)
        undo.pop_all()
    identity = identify(process.pid)
    assert identity is not None, "an unreaped child has an entry in /proc"
    _owned.add(process.pid)
    return Child(identity, command.run, ours, sink, partial(_reap, process))


def adopt(process: ProcessIdentity, run: str, folder: Path, sink: ChunkSink) -> Child:
    """A process of an earlier supervisor, with the named pipes that it was given; its
    exit code is its parent's to know. Raises RUN_NOT_RUNNING if it is gone."""
    try:
        ours = pipes.reopen(folder)
    except OSError as error:
        text = f"cannot adopt process {process.pid}, its pipes are gone: {error}"
        raise ServiceError(Reason.RUN_NOT_RUNNING, text) from error
    with contextlib.ExitStack() as undo:
        undo.enter_context(ours)
        try:
            child = Child(process, run, ours, sink, lambda: None)
        except ProcessLookupError as error:
            raise _gone(process) from error
        undo.pop_all()
    return child


def _popen(command: Command, theirs: pipes.Ends) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            list(command.argv),
            cwd=command.cwd,
            env=command.environment(),
            stdin=subprocess.DEVNULL if theirs.stdin is None else theirs.stdin,
            stdout=theirs.stdout,
            stderr=theirs.stderr,
            start_new_session=True,
        )
    except (FileNotFoundError, PermissionError, NotADirectoryError) as error:
        raise ServiceError(
            Reason.RUNTIME_MISSING,
            f"cannot run {command.argv[0]} in {command.cwd} ({error.strerror}): check "
            "that the program is installed and executable and that the folder exists",
        ) from error
    except (OSError, ValueError) as error:
        raise _not_started(command, error) from error


def _not_started(command: Command, error: Exception) -> ServiceError:
    text = f"cannot start {command.argv[0]}: {error}"
    return ServiceError(Reason.START_FAILED, text)


def _gone(process: ProcessIdentity) -> ServiceError:
    text = f"cannot adopt process {process.pid}: it has ended"
    return ServiceError(Reason.RUN_NOT_RUNNING, text)


def _reap(process: subprocess.Popen[bytes]) -> int:
    code = process.wait()  # a zombie: returns at once
    _owned.discard(process.pid)
    return code


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
