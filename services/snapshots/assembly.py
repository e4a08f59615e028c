"""What one snapshot service consists of, tied together over any two stores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from services.chassis.clock import Clock
from services.snapshots.amendment import PURGE_AFTER_S
from services.snapshots.commit import Committer
from services.snapshots.compactor import Compactor
from services.snapshots.downloads import Downloads
from services.snapshots.editor import Editor
from services.snapshots.fork import Forker
from services.snapshots.generations import Snapshot
from services.snapshots.intake import Intake
from services.snapshots.pins import Pins
from services.snapshots.rebuild import Rebuilder
from services.snapshots.rot import Rot, RotLog
from services.snapshots.scrub import Scrubber
from services.snapshots.shelf import Shelf
from services.snapshots.staging import Staging
from services.snapshots.store import BlobStore, Catalog
from services.snapshots.sweep import Sweeper
from services.snapshots.upkeep import Upkeep
from services.snapshots.verification import Verifier


@dataclass(frozen=True, slots=True)
class Parts:
    """What the servicer calls and what the process closes."""

    intake: Intake
    shelf: Shelf
    downloads: Downloads
    sweeper: Sweeper
    compactor: Compactor
    editor: Editor
    scrubber: Scrubber
    forker: Forker
    rebuilder: Rebuilder
    verifier: Verifier


def assemble(
    blobs: BlobStore,
    catalog: Catalog,
    staging: Staging,
    upkeep: Upkeep,
    rot_log: RotLog,
    scratch: Callable[[], Path],
    clock: Clock,
    *,
    size_bytes_max: int,
    purge_after_s: float = PURGE_AFTER_S,
    scrub_period_s: float = 0.0,
) -> Parts:
    """`scratch` names files beside those of `staging`: on one file system."""
    pins = Pins(upkeep)
    rot = Rot(rot_log)
    shelf = Shelf(catalog, blobs)
    committer = Committer(
        blobs, catalog, scratch, pins, rot, clock, size_bytes_max=size_bytes_max
    )
    sweeper = Sweeper(catalog, blobs, staging, committer, pins, upkeep, clock)
    compactor = Compactor(catalog, blobs, pins, upkeep, scratch)

    def committed(snapshot: Snapshot) -> None:
        sweeper.note_written(snapshot)
        compactor.note(snapshot)

    committer.committed = committed
    sweeper.found = compactor.note
    shelf.deleted = sweeper.note_deleted
    downloads = Downloads(shelf, blobs, pins, scratch)
    return Parts(
        intake=Intake(
            catalog, shelf, staging, committer, size_bytes_max=size_bytes_max
        ),
        shelf=shelf,
        downloads=downloads,
        sweeper=sweeper,
        compactor=compactor,
        editor=Editor(catalog, shelf, committer, clock, purge_after_s),
        scrubber=Scrubber(
            catalog, blobs, upkeep, rot, rot_log, clock, period_s=scrub_period_s
        ),
        forker=Forker(catalog, shelf, committer, pins, clock),
        rebuilder=Rebuilder(catalog, blobs, clock),
        verifier=Verifier(downloads, scratch),
    )
