"""What agents say of themselves: the kinds of report, and what one may hold. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final, TypeAlias

from services.chassis.errors import Reason, ServiceError

STATUS_CHARS_MAX: Final = 280
WORD_BYTES_MAX: Final = 256
TOOLS_MAX: Final = 100
REASON_BYTES_MAX: Final = 4096
# It is appended to a prompt: more would leave no room for the prompt.
CHECKPOINT_BYTES_MAX: Final = 64 * 1024


class Outcome(StrEnum):
    """How an agent's work ended."""

    COMPLETED = "completed"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """It is alive."""

    last_event_type: str = ""
    last_event_time: datetime | None = None
    active_tools: tuple[str, ...] = ()
    container_instance_id: str = ""


@dataclass(frozen=True, slots=True)
class Status:
    """What it is doing."""

    text: str


@dataclass(frozen=True, slots=True)
class Completion:
    """Its work is over."""

    outcome: Outcome
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Waiting:
    """Its turn is over, and it waits for somebody to speak."""

    fire_time: datetime | None = None


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What it keeps for its next prompt: any JSON value, word for word."""

    data_json: str


Report: TypeAlias = Heartbeat | Status | Completion | Waiting | Checkpoint
KINDS: Final[dict[str, type[Report]]] = {
    "heartbeat": Heartbeat,
    "status": Status,
    "completion": Completion,
    "waiting": Waiting,
    "checkpoint": Checkpoint,
}


@dataclass(frozen=True, slots=True)
class Told:
    """A report, and when it came by the store's clock."""

    report: Report
    report_time: datetime


def check_report(report: Report) -> None:
    """Raises FIELD_INVALID for what is outside its documented range."""
    if isinstance(report, Heartbeat):
        _short("heartbeat.last_event_type", report.last_event_type)
        _short("heartbeat.container_instance_id", report.container_instance_id)
        if len(report.active_tools) > TOOLS_MAX:
            raise _wrong("heartbeat.active_tools", f"name at most {TOOLS_MAX}")
        for tool in report.active_tools:
            _short("heartbeat.active_tools", tool)
    elif isinstance(report, Status):
        text = report.text
        if text != text.strip() or not 1 <= len(text) <= STATUS_CHARS_MAX:
            advice = f"use 1 to {STATUS_CHARS_MAX} characters, no space around them"
            raise _wrong("status.text", advice)
    elif isinstance(report, Completion):
        _short("completion.reason", report.reason, REASON_BYTES_MAX)
    elif isinstance(report, Checkpoint):
        check_json("checkpoint.data_json", report.data_json, CHECKPOINT_BYTES_MAX)


def check_json(field: str, text: str, bytes_max: int) -> None:
    """Raises FIELD_INVALID unless the text is one JSON value of that size."""
    _short(field, text, bytes_max)
    try:
        json.loads(text, parse_constant=_refuse, parse_int=str, parse_float=str)
    except (ValueError, RecursionError) as error:
        raise _wrong(field, "send one JSON value") from error


def _refuse(word: str) -> None:
    raise ValueError(f"{word} is no JSON")


def _short(field: str, text: str, bytes_max: int = WORD_BYTES_MAX) -> None:
    if len(text.encode()) > bytes_max:
        raise _wrong(field, f"use at most {bytes_max} bytes")


def _wrong(field: str, advice: str) -> ServiceError:
    return ServiceError(
        Reason.FIELD_INVALID, f"cannot use {field}: {advice}", field=field
    )
