"""A runtime without a process: it writes each message to a real SQLite file."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import apsw

from services.chassis.errors import Reason, ServiceError
from services.supervisor.runtime import (
    EventKind,
    EventSink,
    ExitReport,
    Kept,
    Launch,
    Message,
    Mode,
    OutputSink,
    RuntimeEvent,
    Status,
    Stored,
    TurnEnd,
)


@dataclass
class FakeRuntime:
    """Makes handles; the test can make starts fail and reach the live handle."""

    name: str = "exec"
    version_text: str = ""
    refuse: list[ServiceError] = field(default_factory=list)
    launches: list[Launch] = field(default_factory=list)
    handles: list[FakeHandle] = field(default_factory=list)
    adopted: list[tuple[Launch, Kept]] = field(default_factory=list)
    before: Callable[[Launch], None] = lambda launch: None
    thinking: asyncio.Event | None = None  # set ends the turns
    starting: asyncio.Event | None = None  # set ends the starts

    @property
    def handle(self) -> FakeHandle:
        return self.handles[-1]

    async def version(self, launch: Launch) -> str:
        return self.version_text

    def database_path(self, launch: Launch) -> Path:
        return launch.home / "agent.db"

    async def start(
        self, launch: Launch, on_event: EventSink, on_output: OutputSink
    ) -> FakeHandle:
        self.before(launch)
        self.launches.append(launch)
        if self.refuse:
            raise self.refuse.pop(0)
        if self.starting is not None:
            await self.starting.wait()
        database = self.database_path(launch)
        handle = FakeHandle(
            database, launch, on_event, database.exists(), self.thinking
        )
        self.handles.append(handle)
        return handle

    async def adopt(
        self, launch: Launch, kept: Kept, on_event: EventSink, on_output: OutputSink
    ) -> FakeHandle:
        self.adopted.append((launch, kept))
        if self.refuse:
            raise self.refuse.pop(0)
        database = self.database_path(launch)
        handle = FakeHandle(database, launch, on_event, kept.resumed, self.thinking)
        handle.pid = kept.process.pid
        handle.started_ticks = kept.process.started_ticks
        self.handles.append(handle)
        return handle


class FakeHandle:
    """One live run of the fake runtime."""

    def __init__(
        self,
        database: Path,
        launch: Launch,
        on_event: EventSink,
        resumed: bool,
        thinking: asyncio.Event | None = None,
    ) -> None:
        self.database = database
        self.resumed = resumed
        self.session_id = launch.resume_session or f"session-of-{launch.run}"
        self.pid = os.getpid()
        self.started_ticks = 0
        self.port = None
        self.model = launch.spec.model
        self._on_event = on_event
        self._thinking = thinking
        self.status_now = Status.IDLE
        self._exit: asyncio.Future[ExitReport] = asyncio.Future()
        self._execute("create table if not exists said (id primary key, text)")

    @property
    def ended(self) -> bool:
        return self._exit.done()

    def die(self, code: int | None = None, signal: int | None = None) -> None:
        if not self._exit.done():
            self._exit.set_result(ExitReport(code, signal))

    def said(self) -> list[str]:
        return [
            str(row[0]) for row in self._execute("select id from said order by rowid")
        ]

    def tell(self, event: RuntimeEvent) -> None:
        """Something that the runtime says by itself."""
        self._on_event(event)

    def write(self, text: str) -> None:
        """Something that the agent commits by itself, in no turn."""
        self._execute("insert into said values (?, ?)", text, text)

    async def deliver(self, message: Message, mode: Mode = Mode.ADD) -> None:
        self._check()
        self._execute("insert into said values (?, ?)", message.id, message.text)
        if self._thinking is not None:
            await self._thinking.wait()
        self._on_event(
            RuntimeEvent(
                EventKind.TURN_CLOSED,
                "turn.closed",
                message_id=message.id,
                reason=TurnEnd.COMPLETED,
            )
        )

    async def find_message(self, message_id: str) -> Stored:
        self._check()
        return Stored.ANSWERED if message_id in self.said() else Stored.ABSENT

    async def abort(self) -> None: ...

    async def set_model(self, model: str, small_model: str = "") -> None:
        self.model = model

    async def status(self) -> Status:
        return self.status_now

    async def stop(self, grace_s: float = 10.0) -> ExitReport:
        if not self._exit.done():
            self._exit.set_result(ExitReport(0, None, requested=True))
        return await self._exit

    async def wait(self) -> ExitReport:
        return await asyncio.shield(self._exit)

    def _execute(self, statement: str, *values: str) -> list[tuple[object, ...]]:
        # Never through another SQLite library: it would drop the saver's locks.
        connection = apsw.Connection(str(self.database))
        connection.set_busy_timeout(5000)  # a save reads it in another thread
        try:
            return connection.execute(statement, values).fetchall()
        finally:
            connection.close()

    def _check(self) -> None:
        if self._exit.done():
            raise ServiceError(Reason.RUN_NOT_RUNNING, "cannot: the process has ended")
