"""Kilo's message ids, and what its stored messages say of an inbox message. Pure.

An id is `msg_`, 12 hex digits (the low 48 bits of milliseconds x 4096 + a counter) and
14 base62 characters, random in Kilo's own. In ours they are a hash of the inbox id, so
a restored database tells by itself which inbox messages it holds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from services.supervisor.runtime import Stored

SUFFIX_LENGTH = 14  # 83 bits
_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_COUNTER_BITS = 12
_TIME_BITS = 36  # of the milliseconds: they start again at 0 every 795 days
_TIME_MASK = (1 << _TIME_BITS) - 1

Info = Mapping[str, object]


def suffix_of(inbox_id: str) -> str:
    """The end of the Kilo id of every delivery of this inbox message."""
    number = int.from_bytes(hashlib.sha256(b"inbox:" + inbox_id.encode()).digest())
    letters = []
    for _ in range(SUFFIX_LENGTH):
        number, digit = divmod(number, len(_BASE62))
        letters.append(_BASE62[digit])
    return "".join(letters)


def message_id_for(inbox_id: str, now_ms: int, last_id: str | None) -> str:
    """A new id that sorts after `last_id` and before what Kilo makes next.

    The counter is 0, and Kilo's own starts at 1: in one millisecond ours comes first,
    so the answer sorts after the question.
    """
    time = now_ms & _TIME_MASK
    last = time_of(last_id) if last_id else None
    # "Ahead" is meant modulo the width: half of it is more than a year.
    if last is not None and (last - time) & _TIME_MASK < 1 << (_TIME_BITS - 1):
        time = (last + 1) & _TIME_MASK
    return f"msg_{time << _COUNTER_BITS:012x}{suffix_of(inbox_id)}"


def part_id_for(message_id: str) -> str:
    """The id of a message's only part. Because it is fixed, sending the message again
    under the same id stores the same row again instead of adding its text twice."""
    return "prt_" + message_id.removeprefix("msg_")


def time_of(message_id: str) -> int | None:
    """The (truncated) milliseconds in an id; None when it is not of this layout."""
    try:
        return int(message_id[4:16], 16) >> _COUNTER_BITS
    except ValueError:
        return None


def judge(answers: Sequence[Info]) -> tuple[Stored, bool]:
    """What the assistant messages of one user message say, oldest first: how far its
    turn came, and whether it ended in an error.

    Finished means that the last one was completed and did not ask for another step. An
    abort marks it completed and aborted; that is a cut turn, not an answer.
    """
    if not answers:
        return Stored.UNANSWERED, False
    last = answers[-1]
    time, error = last.get("time"), last.get("error")
    completed = isinstance(time, Mapping) and bool(time.get("completed"))
    aborted = isinstance(error, Mapping) and error.get("name") == "MessageAbortedError"
    if not completed or aborted:
        return Stored.UNFINISHED, False
    if error:
        return Stored.ANSWERED, True
    if last.get("finish") in (None, "tool-calls"):
        return Stored.UNFINISHED, False
    return Stored.ANSWERED, False
