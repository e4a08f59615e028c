"""One child process of `up`: started, seen ready, its output kept, stopped."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from services.cli.identity import Identity, boot_id, identify, kill_trees
from services.cli.problems import Problem

LOG_BYTES_MAX: Final = 8 * 1024 * 1024
TAIL_LINES: Final = 12
_READY: Final = re.compile(rb"^ready (\S+)")
# One line of a child's standard output; a longer one is cut, not waited for.
_LINE_BYTES_MAX: Final = 64 * 1024
# Part of how long a restart takes: what was said is in the pipe already.
_PIPE_END_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class Program:
    """What to run, and how it is seen to be ready."""

    name: str
    argv: Sequence[str]
    log: Path
    stop_s: float
    # Asked at each start: a token in it is fresh, however long `up` has been running.
    environ: Callable[[], Mapping[str, str]]
    # None: it prints a line `ready ADDRESS`.
    probe: Callable[[], bool] | None = None
    ready_s: float = 30.0


@dataclass(slots=True)
class Child:
    """A process of a program, from its start to its end."""

    program: Program
    identity: Identity
    process: asyncio.subprocess.Process
    ready: asyncio.Future[str] = field(init=False)
    _reader: asyncio.Task[None] = field(init=False)

    @classmethod
    async def start(cls, program: Program) -> Child:
        """Starts the program in a session of its own, so that Ctrl-C is ours alone."""
        log = open_log(program.log)
        try:
            process = await asyncio.create_subprocess_exec(
                *program.argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env=dict(program.environ()),
                start_new_session=True,
                limit=_LINE_BYTES_MAX,
            )
        except OSError as error:
            raise Problem(
                f"cannot run {program.argv[0]} ({error.strerror}): "
                "install townkeeper again"
            ) from error
        finally:
            os.close(log)
        # One that ended at once may be reaped by now: then no living process is meant.
        identity = identify(process.pid) or Identity(process.pid, 0, boot_id())
        child = cls(program, identity, process)
        child.ready = asyncio.get_running_loop().create_future()
        name = f"output-of-{program.name}"
        child._reader = asyncio.create_task(child._read(), name=name)
        return child

    async def wait_ready(self) -> str:
        """What it said after `ready`; a Problem with the end of its log if it died."""
        try:
            async with asyncio.timeout(self.program.ready_s):
                return await (self._probed() if self.program.probe else self._said())
        except TimeoutError:
            raise self.problem(
                f"was not ready within {self.program.ready_s:g} s"
            ) from None

    async def wait(self) -> int:
        """Its exit code, when it has ended and its output is read."""
        code = await self.process.wait()
        # A grandchild may hold the pipe open; its words are not waited for.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_PIPE_END_S):
                await asyncio.shield(self._reader)
        self._reader.cancel()
        return code

    async def stop(self) -> None:
        """SIGTERM and its time to end well; then its whole tree is killed."""
        self.identity.send(signal.SIGTERM)
        try:
            async with asyncio.timeout(self.program.stop_s):
                await self.process.wait()
        except TimeoutError:
            await asyncio.to_thread(kill_trees, [self.identity])
        await self.wait()

    def problem(self, what: str) -> Problem:
        """A Problem about this child, with the end of its log."""
        log = self.program.log
        detail = "\n".join(f"  {line}" for line in tail(log))
        return Problem(
            f"cannot go on: {self.program.name} {what}; see {log}", detail=detail
        )

    async def _said(self) -> str:
        ended: asyncio.Future[Any] = asyncio.create_task(self.process.wait())
        try:
            await asyncio.wait({self.ready, ended}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ended.cancel()
        if self.ready.done():
            return self.ready.result()
        raise self.problem(f"ended {ended_how(await self.wait())}")

    async def _probed(self) -> str:
        assert self.program.probe is not None
        while not self.program.probe():
            if self.process.returncode is not None:
                raise self.problem(f"ended {ended_how(await self.wait())}")
            await asyncio.sleep(0.01)
        return ""

    async def _read(self) -> None:
        """Finds the ready line; all else it prints goes to its log."""
        assert self.process.stdout is not None, "it was started with a pipe"
        while line := await self._line(self.process.stdout):
            if (found := _READY.match(line)) and not self.ready.done():
                self.ready.set_result(found[1].decode("utf-8", "replace"))
                continue
            log = open_log(self.program.log)
            try:
                os.write(log, line)
            finally:
                os.close(log)

    async def _line(self, pipe: asyncio.StreamReader) -> bytes:
        try:
            return await pipe.readuntil(b"\n")
        except asyncio.IncompleteReadError as error:
            return error.partial
        except asyncio.LimitOverrunError as error:
            return await pipe.read(error.consumed or _LINE_BYTES_MAX)


def ended_how(code: int) -> str:
    """An exit code in words."""
    if code < 0:
        return f"by {signal.Signals(-code).name}"
    return f"with exit code {code}"


def open_log(path: Path) -> int:
    """The log, to append to; every writer appends, so that it can be cut."""
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def rotate(path: Path, size_bytes_max: int = LOG_BYTES_MAX) -> None:
    """Keeps one older log. Copied and cut: the child goes on writing to its file."""
    try:
        if path.stat().st_size <= size_bytes_max:
            return
        older = path.with_name(f"{path.name}.1")
        with path.open("rb") as source, older.open("wb") as target:
            source.seek(-size_bytes_max, os.SEEK_END)
            target.write(source.read(size_bytes_max))
        os.truncate(path, 0)
    except OSError:
        return  # a full disk; the next look may do better


def tail(path: Path, lines: int = TAIL_LINES) -> list[str]:
    """The last lines of a log."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _LINE_BYTES_MAX))
            text = file.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return []
    return text.splitlines()[-lines:]
