"""What may be changed about a generation after its commit. Pure.

What it holds, who made it and when stays for ever; only its labels change, whether it
is held, and whether it is deleted: each change is the next revision of its record.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from services.chassis.errors import Reason, ServiceError
from services.snapshots.generations import Deletion, Snapshot, check_live, held

# How long what was deleted can be brought back.
PURGE_AFTER_S: Final = 7 * 86_400.0


@dataclass(frozen=True, slots=True)
class Amendment:
    """What is to be said from now on; None leaves it as it is."""

    labels: tuple[tuple[str, str], ...] | None = None
    hold: bool | None = None

    def applied(self, old: Snapshot) -> Snapshot:
        """The record then; the same one if it says all that already."""
        check_live(old)
        origin = old.origin
        if self.labels is not None and dict(self.labels) != dict(origin.labels):
            origin = replace(origin, labels=self.labels)
        hold = old.hold if self.hold is None else self.hold
        if (origin, hold) == (old.origin, old.hold):
            return old
        return replace(old, origin=origin, hold=hold, revision=old.revision + 1)


def deleted(old: Snapshot, now: datetime, purge_after_s: float) -> Snapshot:
    """The record then; the same one if it was deleted before, whose time runs on.
    Raises SNAPSHOT_HELD."""
    if old.deletion is not None:
        return old
    if old.hold:
        raise held(old.agent, old.generation)
    deletion = Deletion(now, now + timedelta(seconds=purge_after_s))
    return replace(old, deletion=deletion, revision=old.revision + 1)


def undeleted(old: Snapshot) -> Snapshot:
    if old.deletion is None:
        return old
    return replace(old, deletion=None, revision=old.revision + 1)


def check_etag(snapshot: Snapshot, etag: str) -> None:
    """An empty one is no condition."""
    if etag not in ("", snapshot.etag):
        raise ServiceError(
            Reason.ETAG_MISMATCH,
            f"cannot change {snapshot.name}: it changed since you read it; read it "
            "again, then decide again",
            etag=snapshot.etag,
        )
