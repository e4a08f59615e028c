"""Reads a generation whole and checks it as a restore would."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from services.snapshots.disk_work import in_thread
from services.snapshots.downloads import Downloads
from services.snapshots.generations import Format, Snapshot
from services.snapshots.materialize import corrupt, merge, unpacked
from services.snapshots.segment_files import sound_page_size


@dataclass(frozen=True, slots=True)
class Verifier:
    """One at a time, as a merge takes as much disk as the session."""

    downloads: Downloads
    scratch: Callable[[], Path]

    async def verify(self, snapshot: Snapshot) -> int:
        """Bytes that were read. Raises SNAPSHOT_CORRUPT."""
        async with self.downloads.proven(snapshot) as paths:
            target = self.scratch()
            try:
                async with self.downloads.merging:
                    await in_thread(self._check, snapshot, paths, target)
            finally:
                await in_thread(target.unlink, missing_ok=True)
        return sum(segment.size_bytes for segment in snapshot.content.segments)

    def _check(self, snapshot: Snapshot, paths: Sequence[Path], target: Path) -> None:
        last = snapshot.content.segments[-1]
        if snapshot.content.format is Format.OPAQUE:
            for _ in unpacked(snapshot, last, paths[0]):
                pass
            return
        merge(snapshot, paths, target)
        if not sound_page_size(target):
            raise corrupt(snapshot, last, "SQLite finds the database damaged")
