"""The event log of an agent: what an event may hold, how much is kept. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from services.chassis.errors import Reason, ServiceError
from services.registry.reports import WORD_BYTES_MAX, check_json

DATA_BYTES_MAX: Final = 64 * 1024
PAGE_DEFAULT: Final = 500
PAGE_MAX: Final = 1000
# What an event costs beside its type and its data.
OVERHEAD_BYTES: Final = 128


@dataclass(frozen=True, slots=True)
class LogBounds:
    """How much of a log is kept; the newest event always is."""

    events: int = 10_000
    size_bytes: int = 4 * 1024 * 1024


LOG_BOUNDS: Final = LogBounds()


@dataclass(frozen=True, slots=True)
class AgentEvent:
    """One event; ids rise by one."""

    id: int
    type: str
    data_json: str
    create_time: datetime

    @property
    def size_bytes(self) -> int:
        """What it counts for in the log."""
        return event_bytes(self.type, self.data_json)


@dataclass(frozen=True, slots=True)
class EventPage:
    """Some events in order, and how many before them were dropped unread."""

    events: tuple[AgentEvent, ...]
    dropped: int


def event_bytes(event_type: str, data_json: str) -> int:
    return len(event_type.encode()) + len(data_json.encode()) + OVERHEAD_BYTES


def check_event(event_type: str, data_json: str) -> None:
    """Raises FIELD_REQUIRED, FIELD_INVALID."""
    if not event_type:
        raise ServiceError(
            Reason.FIELD_REQUIRED,
            "cannot append an event without a type: set it",
            field="event.type",
        )
    if len(event_type.encode()) > WORD_BYTES_MAX:
        raise ServiceError(
            Reason.FIELD_INVALID,
            f"cannot use event.type: use at most {WORD_BYTES_MAX} bytes",
            field="event.type",
        )
    check_json("event.data_json", data_json, DATA_BYTES_MAX)
