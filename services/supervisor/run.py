"""One run of an agent: its states, what may follow what, and when to try again."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final

from services.chassis.errors import Reason, ServiceError
from services.chassis.names import AgentName
from services.supervisor.runtime import ExitReport, Status
from services.supervisor.specs import Role


class State(StrEnum):
    """Where a run stands."""

    HYDRATING = "hydrating"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    SAVING = "saving"
    BACKOFF = "backoff"
    EXITED = "exited"
    FAILED = "failed"


_NEXT: Final[dict[State, frozenset[State]]] = {
    State.HYDRATING: frozenset({State.STARTING, State.FAILED, State.BACKOFF}),
    State.STARTING: frozenset({State.RUNNING, State.FAILED, State.BACKOFF}),
    State.RUNNING: frozenset({State.STOPPING, State.SAVING}),
    State.STOPPING: frozenset({State.SAVING, State.EXITED}),
    State.SAVING: frozenset({State.EXITED, State.BACKOFF, State.FAILED}),
    State.BACKOFF: frozenset({State.HYDRATING, State.EXITED, State.FAILED}),
    State.EXITED: frozenset({State.HYDRATING}),
    State.FAILED: frozenset({State.HYDRATING, State.EXITED}),
}

# 1, 2, 4 … 60 s: a program that cannot live costs a start a minute, not a core.
BACKOFF_FIRST_S: Final = 1.0
BACKOFF_MAX_S: Final = 60.0
# Six crashes without ten quiet minutes between them: somebody must look.
CRASHES_MAX: Final = 6
CRASH_WINDOW_S: Final = 600.0


def backoff_s(failures: int) -> float:
    """How long to wait after so many failures in a row, the first being 1."""
    return min(BACKOFF_FIRST_S * 2.0 ** min(failures - 1, 30), BACKOFF_MAX_S)


@dataclass(slots=True)
class Crashes:
    """Counts crashes in a row; a quiet window forgets them."""

    count: int = 0
    last_s: float = 0.0

    def record(self, now_s: float) -> None:
        if now_s - self.last_s > CRASH_WINDOW_S:
            self.count = 0
        self.count += 1
        self.last_s = now_s

    @property
    def too_many(self) -> bool:
        return self.count >= CRASHES_MAX


@dataclass(slots=True)
class Run:
    """What is known of one run. Only who runs its agent writes it."""

    name: AgentName
    id: str
    role: Role
    epoch: int
    started_at: datetime
    state: State = State.HYDRATING
    model: str = ""
    workdir: str = ""
    pid: int = 0
    port: int = 0
    session_id: str = ""
    resumed: bool = False
    interrupted: bool = False
    generation: int = 0
    saved_at: datetime | None = None
    active_at: datetime | None = None
    active_tools: dict[str, str] = field(default_factory=dict)  # call id → tool
    message_count: int = 0
    exit_reason: str = ""
    error: str = ""
    lost_generations: tuple[int, ...] = ()
    status: Status = Status.IDLE
    crash_count: int = 0

    def move(self, to: State) -> None:
        """Changes the state; a step that the table does not know is our defect."""
        if to is self.state:
            return
        if to not in _NEXT[self.state]:
            raise AssertionError(f"{self.name} cannot go from {self.state} to {to}")
        self.state = to

    @property
    def alive(self) -> bool:
        """Whether a process of it exists or is about to."""
        return self.state not in {State.EXITED, State.FAILED}


def describe(report: ExitReport) -> str:
    """How a process ended, in a sentence."""
    if report.signal is not None:
        return f"the process was ended by signal {report.signal}"
    if report.code is None:
        return "the process ended; its code was for an earlier supervisor"
    return f"the process ended with code {report.code}"


def no_run(name: AgentName) -> ServiceError:
    """This instance never ran the agent."""
    return ServiceError(
        Reason.RUN_NOT_FOUND,
        f"cannot find a run of {name} in this instance: start it first",
        agent=name,
    )


def shutting_down() -> ServiceError:
    """This instance is about to go."""
    return ServiceError(
        Reason.SHUTTING_DOWN,
        "cannot start agents while this instance ends: ask the registry for another"
        " one",
    )


def not_running(name: AgentName) -> ServiceError:
    """The agent has no process now."""
    return ServiceError(
        Reason.RUN_NOT_RUNNING,
        f"cannot do this while {name} does not run: start it first",
        agent=name,
    )


def start_failed(name: AgentName, error: Exception) -> ServiceError:
    """The host would not have it: a full disk, no processes left, a folder taken."""
    return ServiceError(
        Reason.START_FAILED,
        f"cannot start {name}: {error}; look at this container's disk and limits",
        agent=name,
    )
