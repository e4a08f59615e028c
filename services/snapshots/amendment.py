"""What may be changed about a generation after its commit. Pure.

What it holds, who made it and when stays for ever; only its labels change, and whether
it is held.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from services.chassis.errors import Reason, ServiceError
from services.snapshots.generations import Snapshot


@dataclass(frozen=True, slots=True)
class Amendment:
    """What is to be said from now on; None leaves it as it is."""

    labels: tuple[tuple[str, str], ...] | None = None
    hold: bool | None = None

    def applied(self, old: Snapshot) -> Snapshot:
        """The next revision of the record; the same one if it says all that already."""
        origin = old.origin
        if self.labels is not None and dict(self.labels) != dict(origin.labels):
            origin = replace(origin, labels=self.labels)
        hold = old.hold if self.hold is None else self.hold
        if (origin, hold) == (old.origin, old.hold):
            return old
        return replace(old, origin=origin, hold=hold, revision=old.revision + 1)


def check_etag(snapshot: Snapshot, etag: str) -> None:
    """An empty one is no condition."""
    if etag not in ("", snapshot.etag):
        raise ServiceError(
            Reason.ETAG_MISMATCH,
            f"cannot change {snapshot.name}: it changed since you read it; read it "
            "again, then decide again",
            etag=snapshot.etag,
        )
