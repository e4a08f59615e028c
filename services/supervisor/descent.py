"""Which state an agent starts from: the database on disk, or a saved generation. Pure.

A database on disk may hold more than was ever saved, so it is never thrown away while
it descends from the newest generation; once somebody else has gone on from there, it
is set aside.
"""

from __future__ import annotations

from enum import StrEnum

from services.chassis.errors import Reason, ServiceError


class Source(StrEnum):
    """Where the first page of a run comes from."""

    LOCAL = "local"  # the file on disk descends from the head
    AHEAD = "ahead"  # the file descends from a generation that the store forgot
    FETCH = "fetch"  # no file, or one that somebody else has gone on from
    FRESH = "fresh"  # there is nothing at all


def choose(local: int | None, exists: bool, head: int, last: int) -> Source:
    """The source, from the generation the file descends from and the head.

    Args:
        local: what the record beside the file says; None without a record.
        exists: whether there is a file.
        head: the newest generation in the store; 0 when there is none.
        last: the newest that ever was, deleted ones included.
    """
    if not exists:
        return Source.FETCH if head else Source.FRESH
    if local is None:
        # Never saved and never fetched: a record is written before a first start.
        return Source.FETCH if head else Source.LOCAL
    if local == head:
        return Source.LOCAL
    if not head and local <= last:
        return Source.FRESH  # all of it was deleted, so this must not come back
    return Source.AHEAD if local > head else Source.FETCH


def check_version(runtime: str, version: str, saved: str, saved_version: str) -> None:
    """Refuses a session that this runtime would damage or could not read.

    Another program's session, or one of a newer major.minor, is refused. One of an
    older is tried: every generation is kept, so the session is not put at risk.
    """
    if saved and saved != runtime:
        raise _mismatch(f"the session is {saved}'s, not {runtime}'s")
    if not saved_version or not version:
        return
    ours, theirs = _major_minor(version), _major_minor(saved_version)
    if ours is None or theirs is None:
        if version != saved_version:
            raise _mismatch(
                f"{runtime} {saved_version} wrote the session; this is {version}"
            )
        return
    if ours < theirs:
        raise _mismatch(
            f"{runtime} {saved_version} wrote the session and {version} is older"
        )


def _major_minor(version: str) -> tuple[int, int] | None:
    parts = version.split(".")
    if len(parts) < 2 or not (parts[0].isdecimal() and parts[1].isdecimal()):
        return None
    return int(parts[0]), int(parts[1])


def _mismatch(why: str) -> ServiceError:
    return ServiceError(
        Reason.RUNTIME_MISMATCH,
        f"cannot start: {why}; install that version, or restore an older generation",
    )
