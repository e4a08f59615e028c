"""What to do with an inbox message, decided by what the session says of it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from services.supervisor.runtime import Mode, Stored


class Outcome(StrEnum):
    """How a message leaves the inbox."""

    DELIVERED = "delivered"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True, slots=True)
class InboxMessage:
    """A message that waits in the registry's inbox."""

    id: str
    text: str
    model: str = ""


@dataclass(frozen=True, slots=True)
class Deliver:
    """Give it to the runtime, in this mode, and wait for the end of its turn."""

    mode: Mode


@dataclass(frozen=True, slots=True)
class Settle:
    """The session already tells how it ended: acknowledge, do not run it again."""

    outcome: Outcome


def decide(stored: Stored) -> Deliver | Settle:
    """The restored database decides, so a crash neither loses nor doubles a turn."""
    match stored:
        case Stored.ABSENT:
            return Deliver(Mode.ADD)
        case Stored.UNANSWERED:
            return Deliver(Mode.CONTINUE)
        case Stored.UNFINISHED:
            return Settle(Outcome.INTERRUPTED)
        case Stored.ANSWERED:
            return Settle(Outcome.DELIVERED)
