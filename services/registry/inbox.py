"""Messages accepted for an agent: what may come in, and how one leaves. Pure rules."""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from services.chassis.errors import Reason, ServiceError
from services.chassis.names import MessageName

TEXT_BYTES_MAX: Final = 262_144
MODEL_BYTES_MAX: Final = 1024
# An agent that is this far behind answers nobody; at 256 KiB each it is 256 MiB.
PENDING_MAX: Final = 1000
# How long a settled message is remembered, and so for how long its id is.
SETTLED_KEPT_S: Final = 24 * 3600.0


class MessageState(StrEnum):
    """How far a message got."""

    PENDING = "pending"
    DELIVERED = "delivered"
    INTERRUPTED = "interrupted"


OUTCOMES: Final = frozenset({MessageState.DELIVERED, MessageState.INTERRUPTED})


@dataclass(frozen=True, slots=True)
class Message:
    """One message on its way to an agent."""

    name: MessageName
    text: str
    model: str
    state: MessageState
    sequence: int
    accept_time: datetime
    generation: int = 0
    acknowledge_time: datetime | None = None


@dataclass(frozen=True, slots=True)
class MessagePage:
    """Some messages in order; `after` continues behind them, empty at the end."""

    messages: tuple[Message, ...]
    after: str


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """The proof that a message was delivered, and who holds it out."""

    epoch: int
    instance: str
    boot_id: str
    generation: int
    outcome: MessageState


def check_content(text: str, model: str) -> None:
    """Raises unless this can be said to an agent."""
    if not text:
        raise ServiceError(
            Reason.FIELD_REQUIRED, "cannot send nothing: set text", field="text"
        )
    size_bytes = len(text.encode())
    if size_bytes > TEXT_BYTES_MAX:
        raise ServiceError(
            Reason.MESSAGE_TOO_LARGE,
            f"cannot take a text of {size_bytes} bytes: send at most {TEXT_BYTES_MAX}",
            size_bytes=size_bytes,
            limit_bytes=TEXT_BYTES_MAX,
        )
    if len(model.encode()) > MODEL_BYTES_MAX or not model.isprintable():
        raise ServiceError(
            Reason.FIELD_INVALID,
            f"cannot use this model: give provider/model in {MODEL_BYTES_MAX} bytes",
            field="model",
        )


def content_digest(text: str, model: str) -> str:
    """What tells a repeat from another message under the same id."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(model.encode() + b"\0" + text.encode())
    return digest.hexdigest()


def new_message_id() -> str:
    """An id for a message whose sender chose none."""
    return uuid.uuid4().hex


def position(sequence: int, message: str) -> str:
    """Where a message stands in its agent's inbox; positions sort by acceptance."""
    return f"{sequence:016d}/{message}"
