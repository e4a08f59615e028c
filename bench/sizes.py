"""B1: the bytes that saves of a real Kilo session come to, against the changed pages
in zstd, and against Litestream on the same writes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import zstandard

from bench.kept import kept_bytes
from bench.recording import Image, State, record
from bench.rows import Goal, Row, compare
from bench.sessions import Session
from tests.support.plane import PlaneProcess
from townkeeper.snapshots.v1 import snapshots_pb2

SESSIONS: Final = 5
LEVEL: Final = 3

_TURN: Final = Goal("B1.turn", "a save at a turn's end", 0.6, "× zstd -3", False)
_ALL: Final = Goal("B1.all", "saves of whole sessions", 0.6, "× zstd -3", False)
_KEPT: Final = Goal("B1.kept", "what is kept of a session", 0.6, "× zstd -3", False)
_PEER: Final = Goal(
    "B1.peer", "what both keep of a session", 0.25, "× Litestream", at_least=False
)
_PEER_EACH: Final = Goal(
    "B1.peer.each", "all that both stored", 0.25, "× Litestream", at_least=False
)


def measure(
    plane: PlaneProcess, program: str, folder: Path, cache: Path, turns: int
) -> Iterator[Row]:
    """Sessions that were recorded before; else they are recorded now."""
    recordings = [
        record(
            cache / f"kilo-{turns}-{seed}.db", folder / f"{seed}", program, turns, seed
        )
        for seed in range(1, SESSIONS + 1)
    ]
    stored, packed = list[int](), list[int]()
    for number, recording in enumerate(recordings):
        ends = at_turn_ends(recording.states())
        saves = _replayed(plane, f"bench-turns-{number}", ends)
        # The first is not a turn's work but all that was there before it.
        for ours, zstd in saves[1:]:
            stored.append(ours)
            packed.append(zstd)
    yield compare(_TURN, stored, packed)
    totals = [
        _replayed(plane, f"bench-all-{number}", recording.states())
        for number, recording in enumerate(recordings)
    ]
    all_stored = [sum(ours for ours, _ in saves) for saves in totals]
    all_packed = [sum(zstd for _, zstd in saves) for saves in totals]
    yield compare(_ALL, all_stored, all_packed)
    kept = [
        kept_bytes(folder / f"kept-{number}", recording.states())
        for number, recording in enumerate(recordings)
    ]
    theirs = [recording.litestream_bytes() for recording in recordings]
    yield compare(_KEPT, kept, all_packed)
    yield compare(_PEER, kept, [theirs_kept for _, theirs_kept in theirs])
    yield compare(_PEER_EACH, all_stored, [each for each, _ in theirs])


def at_turn_ends(states: Iterable[State]) -> Iterator[State]:
    """As if nothing were saved between."""
    waiting: dict[int, bytes] = {}
    for state in states:
        waiting |= state.changed
        if state.turn_end:
            changed = {
                number: waiting[number]
                for number in sorted(waiting)
                if number <= state.page_count
            }
            yield State(True, state.page_size, state.page_count, changed)
            waiting = {}


def _replayed(
    plane: PlaneProcess, agent: str, states: Iterable[State]
) -> list[tuple[int, int]]:
    """Bytes of each save: what we store of it, and its changed pages in zstd."""
    session = Session(plane, agent)
    session.start()
    image = Image()
    found = []
    compressor = zstandard.ZstdCompressor(level=LEVEL)
    for state in states:
        image.apply(state)
        image.put(session.database)
        generation = session.save()
        packed = len(compressor.compress(b"".join(state.changed.values())))
        found.append((_stored_bytes(session, generation), packed))
    session.stop()
    return found


def _stored_bytes(session: Session, generation: int) -> int:
    """The newest segment and the record of a generation."""
    name = f"{session.name}/snapshots/{generation}"
    request = snapshots_pb2.GetSnapshotRequest(name=name)
    snapshot = session.plane.snapshots().GetSnapshot(request).snapshot
    record_file = session.plane.data.blobs / (
        f"{session.name}/records/{generation:019}.json"
    )
    return int(snapshot.segments[-1].size_bytes) + record_file.stat().st_size
