"""Nudges: short messages that wait for a good moment. Pure rules."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from services.chassis.errors import Reason, ServiceError
from services.chassis.names import NudgeName
from services.registry.reports import WORD_BYTES_MAX

TEXT_BYTES_MAX: Final = 8192
# All of them are sent and stored as one: 800 KiB.
PENDING_MAX: Final = 100
TTL_S_MAX: Final = 7 * 24 * 3600.0
# How long a delivered nudge is remembered, and so for how long its id is.
DELIVERED_KEPT_S: Final = 24 * 3600.0
DELIVERED_MAX: Final = 100


class Mode(StrEnum):
    """When a nudge should be said."""

    WAIT_IDLE = "wait-idle"
    IMMEDIATE = "immediate"
    QUEUE = "queue"


class Priority(StrEnum):
    """How much a nudge matters."""

    NORMAL = "normal"
    URGENT = "urgent"


@dataclass(frozen=True, slots=True)
class NudgeContent:
    """What is asked for; two of one id must be equal. No `ttl_s` means for ever."""

    text: str
    mode: Mode = Mode.WAIT_IDLE
    priority: Priority = Priority.NORMAL
    source: str = ""
    ttl_s: float = 0.0

    @property
    def digest(self) -> str:
        return hashlib.blake2b(repr(self).encode(), digest_size=16).hexdigest()


@dataclass(frozen=True, slots=True)
class Nudge:
    """A nudge on its way to an agent."""

    name: NudgeName
    content: NudgeContent
    create_time: datetime
    expire_time: datetime | None = None


def check_nudge(content: NudgeContent) -> None:
    """Raises FIELD_REQUIRED, FIELD_INVALID."""
    if not content.text:
        raise ServiceError(
            Reason.FIELD_REQUIRED,
            "cannot accept a nudge without text: set it",
            field="nudge.text",
        )
    if len(content.text.encode()) > TEXT_BYTES_MAX:
        raise _wrong("nudge.text", f"use at most {TEXT_BYTES_MAX} bytes")
    if len(content.source.encode()) > WORD_BYTES_MAX:
        raise _wrong("nudge.source", f"use at most {WORD_BYTES_MAX} bytes")
    if content.ttl_s and content.mode is not Mode.QUEUE:
        raise _wrong("ttl", "only queued nudges expire")


def check_ttl(seconds: float) -> float:
    """How long a nudge is kept. Raises FIELD_INVALID."""
    if not 1 <= seconds <= TTL_S_MAX:
        raise _wrong("ttl", f"give 1 to {TTL_S_MAX:g} seconds")
    return seconds


def _wrong(field: str, advice: str) -> ServiceError:
    return ServiceError(
        Reason.FIELD_INVALID, f"cannot use {field}: {advice}", field=field
    )
