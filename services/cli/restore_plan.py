"""What a restore would do, and about how long it would take: asked, not done."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Final

from services.chassis.names import SnapshotName
from services.cli.connection import Session
from services.cli.output import moment, size
from services.cli.problems import Problem
from townkeeper.snapshots.v1 import resources_pb2, snapshots_pb2

# Enough to tell how fast the bytes come.
SAMPLE_BYTES: Final = 16 << 20
# Building a database and checking it, then saving it whole: cautious, for one core.
BUILD_BYTES_PER_S: Final = 100 * 10**6
PACK_BYTES_PER_S: Final = 60 * 10**6


@dataclass(frozen=True, slots=True)
class Sample:
    """How the service sends this generation: proven first, all of it, then streamed."""

    proof_s: float
    size_bytes: int
    stream_s: float

    def seconds(self, stored_bytes: int) -> float:
        rate = self.size_bytes / self.stream_s if self.stream_s else 0.0
        return self.proof_s + (stored_bytes / rate if rate else 0.0)


def estimate_s(sample: Sample, stored_bytes: int, written_bytes: int) -> float:
    """Reading, building with all checks, and the save that makes it the newest."""
    return (
        sample.seconds(stored_bytes)
        + written_bytes / BUILD_BYTES_PER_S
        + written_bytes / PACK_BYTES_PER_S
    )


def show_plan(session: Session, name: SnapshotName) -> None:
    """Reads up to 16 MiB of it to see how fast it comes; changes nothing."""
    snapshot = _restorable(session, name)
    stored = sum(segment.size_bytes for segment in snapshot.segments)
    with session.out.working("measuring"):
        sample = _sample(session, snapshot)
    seconds = estimate_s(sample, stored, snapshot.size_bytes)
    if session.out.as_json:
        session.out.json(
            {
                "name": snapshot.name,
                "segments": len(snapshot.segments),
                "readBytes": stored,
                "writtenBytes": snapshot.size_bytes,
                "seconds": round(seconds, 1),
            }
        )
        return
    session.out.line(
        f"would read {len(snapshot.segments)} segments ({size(stored)}) of "
        f"{snapshot.name} of {moment(snapshot.create_time)}, write "
        f"{size(snapshot.size_bytes)}, and save them as the next generation: about "
        f"{_shown(seconds)}, beside the stop and start of the agent"
    )


def _restorable(session: Session, name: SnapshotName) -> resources_pb2.Snapshot:
    request = snapshots_pb2.GetSnapshotRequest(name=str(name))
    snapshot = session.snapshots().GetSnapshot(request).snapshot
    if snapshot.HasField("delete_time"):
        raise Problem(
            f"cannot restore {name}, it is deleted: bring it back first (townkeeper "
            f"snapshots undelete {name.agent} {name.generation})"
        )
    if snapshot.format == resources_pb2.FORMAT_OPAQUE:
        raise Problem(
            f"cannot restore {name}, it is no database: take another generation"
        )
    return snapshot


def _sample(session: Session, snapshot: resources_pb2.Snapshot) -> Sample:
    request = snapshots_pb2.DownloadSnapshotRequest(
        name=snapshot.name,
        content=snapshots_pb2.DownloadSnapshotRequest.CONTENT_SEGMENTS,
    )
    began = time.monotonic()
    call: Any = session.snapshots().DownloadSnapshot(request)
    proven = began
    count = 0
    for frame in call:
        if frame.HasField("header"):
            proven = time.monotonic()
        count += len(frame.chunk.data)
        if count >= SAMPLE_BYTES:
            call.cancel()
            break
    return Sample(proven - began, count, time.monotonic() - proven)


def _shown(seconds: float) -> str:
    if seconds < 1:
        return "a second"
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes"
