"""The port to the program that is an agent: start, prompt, watch, abort, stop.

An adapter owns one kind of program (`kilo`, `opencode`, `exec`). It decides nothing
about saving, restarting or order: the roster does, from what this port promises.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from services.supervisor.process_tree import ProcessIdentity


class EventKind(StrEnum):
    """What an event means to the supervisor; OTHER is only passed on to watchers."""

    TURN_OPENED = "turn_opened"
    TURN_CLOSED = "turn_closed"
    STATUS = "status"
    TOOL_STARTED = "tool_started"
    TOOL_ENDED = "tool_ended"
    ALIVE = "alive"  # proves life, never activity: must not cancel an idle timer
    OTHER = "other"


class TurnEnd(StrEnum):
    """How a turn closed."""

    COMPLETED = "completed"
    ERROR = "error"
    INTERRUPTED = "interrupted"


class Status(StrEnum):
    """What the runtime is doing with its session now."""

    IDLE = "idle"
    BUSY = "busy"
    RETRY = "retry"  # its model fails and it tries again by itself, without end
    OFFLINE = "offline"  # it waits for the network, without end, until told


class Mode(StrEnum):
    """ADD stores the message and starts its turn; CONTINUE starts the turn of a
    message that the session already stores, without adding anything to it."""

    ADD = "add"
    CONTINUE = "continue"


class Stored(StrEnum):
    """What the session's database says of an inbox message."""

    ABSENT = "absent"
    UNANSWERED = "unanswered"  # stored, and no assistant message names it
    UNFINISHED = "unfinished"  # the last answer to it was cut: do not run it again
    ANSWERED = "answered"


class Stream(StrEnum):
    """Where a piece of output came from."""

    STDOUT = "stdout"
    STDERR = "stderr"


@dataclass(frozen=True, slots=True)
class RunSpec:
    """What was asked for, already validated; plain values, no proto. `env_vars` holds
    no reserved name (HOME, LD_*, TOWNKEEPER_* ...): an adapter adds what it needs."""

    runtime: str
    name: str = ""
    model: str = ""
    small_model: str = ""
    system_prompt: str = ""
    env_vars: Mapping[str, str] = field(default_factory=dict)
    command: tuple[str, ...] = ()  # exec only
    database: str = ""  # exec only: path below the agent's home


@dataclass(frozen=True, slots=True)
class Launch:
    """Everything one run needs, decided before it starts.

    `home` (0700), `workdir` and `tmpdir` exist, are absolute and belong to this agent
    alone; the adapter empties `tmpdir`. The database is already hydrated. `environ`
    is what the supervisor adds for this agent (git author, sockets); `spec.env_vars`
    never wins over it. `run` is unique in the world (a UUID): it marks every process
    of the run, and whatever carries the mark is killed with it.
    """

    town: str
    rig: str
    agent: str
    run: str
    role: str
    spec: RunSpec
    home: Path
    workdir: Path
    tmpdir: Path
    resume_session: str | None = None  # None: a fresh session
    # For what a successor needs to adopt the program; None: it is not to be adopted.
    handover: Path | None = None
    environ: Mapping[str, str] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The agent's resource name, for logs and errors."""
        return f"towns/{self.town}/agents/{self.agent}"


@dataclass(frozen=True, slots=True)
class Kept:
    """A program that an earlier supervisor started, and that still runs. `handover` is
    the folder that its launch had, `resumed` what its handle said then."""

    process: ProcessIdentity
    handover: Path
    resumed: bool


@dataclass(frozen=True, slots=True)
class Message:
    """One inbox message. Its id is the inbox's; adapters derive their own from it."""

    id: str
    text: str


@dataclass(frozen=True, slots=True)
class RuntimeEvent:
    """One thing that happened in a run, in order.

    `name` and `data` are the runtime's own words, passed on to watchers as they are.
    TURN_CLOSED comes exactly once for each delivered message while the program lives,
    also after a lost event stream; its `message_id` is the inbox id, None for a turn
    that no delivered message started.
    """

    kind: EventKind
    name: str
    data: Mapping[str, object] = field(default_factory=dict)
    message_id: str | None = None
    reason: TurnEnd | None = None  # TURN_CLOSED
    status: Status | None = None  # STATUS
    tool: str | None = None  # TOOL_STARTED, TOOL_ENDED: the tool's name
    call_id: str | None = None  # TOOL_STARTED, TOOL_ENDED: tells two calls apart


@dataclass(frozen=True, slots=True)
class Output:
    """A piece of what the program printed; `dropped_bytes` were lost just before."""

    stream: Stream
    data: bytes
    dropped_bytes: int = 0


@dataclass(frozen=True, slots=True)
class ExitReport:
    """How a run's process ended, and what was left of its tree.

    One of `code` and `signal` is set, but for a program that was adopted: its code was
    for its parent. `killed` counts descendants that had to
    be killed; `survivors` are pids that would not die (stuck in the kernel): while
    there is one the database must not be hydrated over.
    """

    code: int | None
    signal: int | None
    requested: bool = False  # stop() was called before it ended
    killed: int = 0
    survivors: tuple[int, ...] = ()

    @property
    def completed(self) -> bool:
        """True when the program ended by itself and well."""
        return self.code == 0 and not self.requested


EventSink = Callable[[RuntimeEvent], None]
OutputSink = Callable[[Output], None]


class Handle(Protocol):
    """One live run. Every method may be called from one event loop only, and every
    method but `stop` and `wait` raises RUN_NOT_RUNNING once the process has ended."""

    @property
    def pid(self) -> int: ...

    @property
    def started_ticks(self) -> int:
        """The start time of `pid` in kernel ticks: with the pid it names a process."""
        ...

    @property
    def session_id(self) -> str | None: ...

    @property
    def resumed(self) -> bool:
        """True when `Launch.resume_session` was found and is used; where the runtime
        has no sessions (`exec`), when its database was there before the start."""
        ...

    @property
    def port(self) -> int | None: ...

    async def deliver(self, message: Message, mode: Mode = Mode.ADD) -> None:
        """Hands one message over; returns once the runtime has accepted it.

        Messages are delivered one at a time: the next only after TURN_CLOSED of the
        last. ADD with an id that is already stored adds its text a second time, so
        ask `find_message` first after a restart. An empty text in ADD mode sends
        nothing and closes the turn at once. When this raises, the message may or may
        not have been stored: ask `find_message`.
        """
        ...

    async def find_message(self, message_id: str) -> Stored:
        """Asks the session what became of an inbox message delivered at any time,
        by this or an earlier run."""
        ...

    async def abort(self) -> None:
        """Ends the turn that runs, if one does; TURN_CLOSED(interrupted) follows. Does
        nothing where the program cannot be told (`exec`)."""
        ...

    async def set_model(self, model: str, small_model: str = "") -> None:
        """Uses another model from the next message on; same session, same process."""
        ...

    async def status(self) -> Status: ...

    async def stop(self, grace_s: float = 10.0) -> ExitReport:
        """Aborts the turn, asks the program to end, waits `grace_s`, then kills.

        On return the whole process tree is gone, or named in `survivors`. Safe to
        call twice and on a run that has already ended.
        """
        ...

    async def wait(self) -> ExitReport:
        """Waits for the end of the process, however it comes, then kills what is left
        of its tree. Events and output are delivered before this returns."""
        ...


class Runtime(Protocol):
    """One kind of agent program; makes handles, keeps none."""

    @property
    def name(self) -> str: ...

    async def version(self, launch: Launch) -> str:
        """What the program says its version is ("7.7.9"); "" where it has none.
        Recorded with each snapshot."""
        ...

    def database_path(self, launch: Launch) -> Path:
        """The one SQLite file that is the session, beneath `launch.home`. Raises
        FIELD_INVALID when it leads outside or over a link; ask at each use."""
        ...

    async def start(
        self, launch: Launch, on_event: EventSink, on_output: OutputSink
    ) -> Handle:
        """Starts the program and returns when it is READY to take messages.

        The sinks are called on the event loop, in order, and must not block. Raises
        ServiceError RUNTIME_MISSING, START_FAILED or EXEC_DISABLED; then nothing of
        the program is left running. Cancelling it leaves nothing running either.
        """
        ...

    async def adopt(
        self, launch: Launch, kept: Kept, on_event: EventSink, on_output: OutputSink
    ) -> Handle:
        """Takes up a program that was started with an equal launch, without it taking
        notice. What it did since its supervisor died is told first.

        The message whose turn runs is one that `find_message` waits for. Raises
        ServiceError RUN_NOT_RUNNING or START_FAILED if it cannot be: then the caller
        ends what is left of it.
        """
        ...
