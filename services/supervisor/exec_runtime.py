"""The `exec` runtime: any program that keeps its state in one SQLite file.

It reads messages as JSON lines on stdin and may write events as JSON lines on stdout;
every other line is output. Delivery is at least once: the program dedupes by id.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from services.chassis.errors import Reason, ServiceError
from services.supervisor import spawn
from services.supervisor.child import Child, ChunkSink
from services.supervisor.exec_lines import JsonLines
from services.supervisor.meter import Meter
from services.supervisor.paths import beneath, empty_folder
from services.supervisor.runtime import (
    EventKind,
    EventSink,
    ExitReport,
    Handle,
    Kept,
    Launch,
    Message,
    Mode,
    OutputSink,
    RuntimeEvent,
    Status,
    Stored,
    Stream,
    TurnEnd,
)

ANY = "any"
DONE = "message.done"
DATABASE_DEFAULT = "agent.db"


@dataclass(frozen=True, slots=True)
class ExecPolicy:
    """Which programs may be run: TOWNKEEPER_EXEC is `any`, a list, or empty."""

    any_program: bool = False
    programs: frozenset[str] = frozenset()

    @classmethod
    def parse(cls, text: str) -> ExecPolicy:
        """`any`, or names and absolute paths separated by commas; empty: none."""
        names = frozenset(name.strip() for name in text.split(",") if name.strip())
        return cls(ANY in names, names - {ANY})

    def program(self, command: tuple[str, ...]) -> str:
        """What to execute for this command. A listed name is looked up on our own
        PATH here, so a request cannot bring its own program under a listed name."""
        if not command or not command[0]:
            raise ServiceError(
                Reason.COMMAND_INVALID,
                "cannot start an exec agent without a command: give the program and "
                "its arguments as a list",
            )
        name = command[0]
        if self.any_program:
            return name
        found = shutil.which(name) if "/" not in name else name
        if found and (name in self.programs or found in self.programs):
            return found
        raise ServiceError(
            Reason.EXEC_DISABLED,
            f"cannot run {name[:200]!r}: this supervisor allows no such program; its "
            "operator can name it in TOWNKEEPER_EXEC",
            program=name[:200],
        )


class ExecRuntime:
    """Makes handles of programs that speak JSON lines."""

    name = "exec"

    def __init__(self, policy: ExecPolicy) -> None:
        self._policy = policy

    async def version(self, launch: Launch) -> str:
        return ""

    def database_path(self, launch: Launch) -> Path:
        return beneath(
            launch.home, launch.spec.database or DATABASE_DEFAULT, "database"
        )

    async def start(
        self, launch: Launch, on_event: EventSink, on_output: OutputSink
    ) -> Handle:
        program = self._policy.program(launch.spec.command)
        database = self.database_path(launch)
        await asyncio.to_thread(_prepare, launch, database)
        command = spawn.Command(
            argv=(program, *launch.spec.command[1:]),
            cwd=launch.workdir,
            environ=exec_environment(launch, database),
            run=launch.run,
            stdin=True,
            pipes=launch.handover,
        )
        begin = partial(spawn.start, command)
        return ExecHandle(begin, database.exists(), on_event, Meter(on_output))

    async def adopt(
        self, launch: Launch, kept: Kept, on_event: EventSink, on_output: OutputSink
    ) -> Handle:
        """What it said while nobody listened waits in its pipes. A message whose turn
        was on is given again: the program knows by its id that it has it."""
        begin = partial(spawn.adopt, kept.process, launch.run, kept.handover)
        return ExecHandle(begin, kept.resumed, on_event, Meter(on_output))


def exec_environment(launch: Launch, database: Path) -> dict[str, str]:
    """The whole environment of an exec agent, but PATH, LANG and the run's mark."""
    return (
        dict(launch.spec.env_vars)
        | dict(launch.environ)
        | {
            "HOME": str(launch.home),
            "XDG_DATA_HOME": str(launch.home / ".local/share"),
            "TMPDIR": str(launch.tmpdir),
            "TOWNKEEPER_DATABASE": str(database),
            "TOWNKEEPER_AGENT": launch.agent,
        }
    )


def _prepare(launch: Launch, database: Path) -> None:
    empty_folder(launch.tmpdir)
    (launch.home / ".local/share").mkdir(parents=True, exist_ok=True)
    database.parent.mkdir(parents=True, exist_ok=True)


class ExecHandle:
    """One live program: one turn at a time, ended by `message.done`."""

    session_id: str | None = None
    port: int | None = None

    def __init__(
        self,
        begin: Callable[[ChunkSink], Child],
        resumed: bool,
        on_event: EventSink,
        meter: Meter,
    ) -> None:
        self.resumed = resumed
        self._on_event = on_event
        self._meter = meter
        self._turn: str | None = None
        self._lines = JsonLines(self._on_object, self._on_text)
        self._child = begin(self._on_chunk)

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def started_ticks(self) -> int:
        return self._child.identity.started_ticks

    async def deliver(self, message: Message, mode: Mode = Mode.ADD) -> None:
        """Both modes write the message: the program knows by its id what is new."""
        self._check_running()
        if not message.text and mode is Mode.ADD:
            self._open(message.id)
            self._close(message.id, TurnEnd.COMPLETED, {})
            return
        line = json.dumps({"id": message.id, "text": message.text})
        self._open(message.id)
        try:
            await self._child.write(line.encode() + b"\n")
        except ServiceError:
            self._turn = None
            raise

    async def find_message(self, message_id: str) -> Stored:
        """Always ABSENT: only the program can know, and it dedupes by id."""
        self._check_running()
        return Stored.ABSENT

    async def abort(self) -> None:
        self._check_running()

    async def set_model(self, model: str, small_model: str = "") -> None:
        self._check_running()

    async def status(self) -> Status:
        self._check_running()
        return Status.BUSY if self._turn else Status.IDLE

    async def stop(self, grace_s: float = 10.0) -> ExitReport:
        return await self._end(await self._child.terminate(grace_s))

    async def wait(self) -> ExitReport:
        return await self._end(await self._child.wait())

    async def _end(self, report: ExitReport) -> ExitReport:
        self._lines.end()
        self._meter.end()
        self._turn = None
        return report

    def _check_running(self) -> None:
        if not self._child.running:
            raise ServiceError(
                Reason.RUN_NOT_RUNNING,
                "cannot reach the program: it has ended; start the agent again",
                pid=self.pid,
            )

    def _open(self, message_id: str) -> None:
        self._turn = message_id
        self._emit(EventKind.TURN_OPENED, "turn.open", {}, message_id)

    def _close(
        self, message_id: str, reason: TurnEnd, data: Mapping[str, object]
    ) -> None:
        self._turn = None
        self._emit(EventKind.TURN_CLOSED, DONE, data, message_id, reason)

    def _emit(
        self,
        kind: EventKind,
        name: str,
        data: Mapping[str, object],
        message_id: str | None = None,
        reason: TurnEnd | None = None,
    ) -> None:
        self._on_event(RuntimeEvent(kind, name, data, message_id, reason))

    def _on_chunk(self, stream: Stream, data: bytes) -> None:
        if stream is Stream.STDOUT:
            self._lines.feed(data)
        else:
            self._meter.pass_on(stream, data)

    def _on_text(self, data: bytes) -> None:
        self._meter.pass_on(Stream.STDOUT, data)

    def _on_object(self, event: Mapping[str, object], size: int) -> None:
        """The end of the turn is never dropped; other events count as output does."""
        if event.get("event") == DONE and self._turn and event.get("id") == self._turn:
            self._close(self._turn, TurnEnd.COMPLETED, event)
        elif self._meter.take(size):
            name = event.get("event")
            kind = EventKind.OTHER
            self._emit(kind, name if isinstance(name, str) else "output.json", event)
        else:
            self._meter.drop(size)
