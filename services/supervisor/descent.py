"""Which state an agent starts from: the database on disk, or a saved generation. Pure.

A database on disk may hold more than was ever saved, so it is never thrown away while
it descends from the newest generation; once somebody else has gone on from there, it
is set aside.
"""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from typing import Final

from services.chassis.errors import Reason, ServiceError
from services.supervisor.places import Lineage
from services.supervisor.snapshots_client import Generation
from services.supervisor.specs import Claim

# What makes a generation useless, as opposed to a store that is away.
UNSOUND: Final = frozenset(
    {
        Reason.SNAPSHOT_CORRUPT,
        Reason.DIGEST_MISMATCH,
        Reason.SEGMENT_MALFORMED,
        Reason.PARENT_MISMATCH,
        Reason.NOT_A_DATABASE,
        Reason.SNAPSHOT_OPAQUE,
        Reason.SNAPSHOT_NOT_FOUND,
    }
)


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


def caught_up(lineage: Lineage | None, head: Generation | None) -> Lineage | None:
    """The record, also of a supervisor that died between a commit and its answer."""
    if lineage is None or head is None or not lineage.upload_id:
        return lineage
    if lineage.upload_id != head.upload_id:
        return lineage
    return replace(lineage, generation=head.number, upload_id="")


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


def loss_report(claim: Claim, head: Generation | None, lost: list[int]) -> str:
    """What of the agent's history could not be brought back; "" if all of it was."""
    number = head.number if head is not None else 0
    if lost and head is not None and not head.opaque:
        return f"generations {lost} were not sound and could not be used"
    if claim.generation > number:
        return (
            f"the registry heard of generation {claim.generation}, the store has"
            f" {number}: what was saved after that is lost"
        )
    return ""


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
