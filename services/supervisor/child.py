"""One process and everything that descends from it, from its start to its proven end.

Its pid stays its own until its whole tree is gone: the exit is first seen by its pidfd,
the tree is killed, and only then is the zombie reaped.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable

from services.chassis.errors import Reason, ServiceError
from services.supervisor.pipes import Ends
from services.supervisor.process_tree import ProcessIdentity, identify, members
from services.supervisor.runtime import ExitReport, Stream
from services.supervisor.tree_kill import kill_tree, send

READ_BYTES = 64 * 1024  # a whole default pipe at once
WRITE_S = 10.0  # a child that reads nothing for so long is not listening

ChunkSink = Callable[[Stream, bytes], None]


class Child:
    """Made by `spawn.start`, or by `spawn.adopt` for one that somebody else started.

    `collect` is called once, when the process has ended and its tree is gone: it gives
    the exit code (negative: the signal that ended it), None where nobody can tell.
    """

    def __init__(
        self,
        identity: ProcessIdentity,
        run: str,
        pipes: Ends,
        sink: ChunkSink,
        collect: Callable[[], int | None],
    ) -> None:
        self.identity = identity
        self._known: set[ProcessIdentity] = {identity}
        self._run = run
        self._sink = sink
        self._collect = collect
        self._loop = asyncio.get_running_loop()
        self._requested = False
        self._unwritten = bytearray()
        self._writing = asyncio.Lock()
        self._ended = asyncio.Event()
        self._pidfd = os.pidfd_open(identity.pid)
        if identify(identity.pid) != identity:
            os.close(self._pidfd)
            raise ProcessLookupError(f"pid {identity.pid} is another's")
        self._loop.add_reader(self._pidfd, self._on_exit)
        self._stdin = pipes.stdin
        self._readers = {Stream.STDOUT: pipes.stdout, Stream.STDERR: pipes.stderr}
        for stream, pipe in self._readers.items():
            self._loop.add_reader(pipe, self._on_readable, stream)
        self._finish = asyncio.create_task(self._see_out(), name=f"child-{self.pid}")

    @property
    def pid(self) -> int:
        return self.identity.pid

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
            except (TimeoutError, BrokenPipeError) as error:
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
        code = self._collect()
        for stream in list(self._readers):
            self._drain(stream)
        if self._stdin is not None:
            os.close(self._stdin)
            self._stdin = None
        return ExitReport(
            code=code if code is not None and code >= 0 else None,
            signal=-code if code is not None and code < 0 else None,
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
            data = os.read(pipe, READ_BYTES) if pipe is not None else b""
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
            self._loop.remove_reader(pipe)
            os.close(pipe)

    async def _write_some(self) -> None:
        if self._stdin is None:
            raise BrokenPipeError
        try:
            written = os.write(self._stdin, self._unwritten[:READ_BYTES])
            del self._unwritten[:written]
        except BlockingIOError:
            descriptor, writable = self._stdin, asyncio.Event()
            self._loop.add_writer(descriptor, writable.set)
            try:
                await writable.wait()
            finally:
                self._loop.remove_writer(descriptor)
