"""B3: the first save of a big database, against Litestream's first copy."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

from bench.database import build
from bench.litestream import SNAPSHOT_LEVEL, Litestream
from bench.others import Beside
from bench.process import peak_bytes, reset_peak, resident_bytes
from bench.rows import Goal, Row, compare
from bench.sessions import Session
from tests.support.plane import PlaneProcess

RUNS: Final = 5
MIB: Final = 1 << 20


def measure(
    plane: PlaneProcess, program: str, folder: Path, size_mb: int
) -> Iterator[Row]:
    """A new agent and a new replica in each run."""
    bulk = build(folder / f"{size_mb}.db", size_mb)
    supervisor = plane.child("supervisor").pid
    before_bytes = resident_bytes(supervisor)
    ours_s, ours_bytes, theirs_s = list[float](), list[float](), list[float]()
    grown_mib = list[float]()
    beside = Beside(folder / "others")
    for run in range(RUNS):
        reset_peak(supervisor)
        session = Session(plane, f"bench-first-{size_mb}-{run}")
        stored_bytes = _stored_bytes(plane)
        session.start()
        prepared = session.prepare(bulk)
        _make_unlike(prepared, run)
        begun = time.perf_counter()
        session.reveal(prepared)
        session.save()
        ours_s.append(time.perf_counter() - begun)
        ours_bytes.append(_stored_bytes(plane) - stored_bytes)
        grown_mib.append((peak_bytes(supervisor) - before_bytes) / MIB)
        session.stop()
        session.lose_disk()
        peer = Litestream(program, folder / "litestream")
        bulk.copy_to(peer.database)
        begun = time.perf_counter()
        with peer.replicating():
            peer.sync()
            theirs_s.append(time.perf_counter() - begun)
        if run == RUNS - 1:
            peer.settle()
            theirs_bytes = peer.size_bytes(0, 1, SNAPSHOT_LEVEL)
        peer.remove()
        beside.run(bulk.path)
    what, name = f"first save of {size_mb} MB", f"B3.{size_mb}MB"
    yield compare(_goal(f"{name}.time", f"{what}, time", 0.2), ours_s, theirs_s)
    yield from beside.kept(f"{name}.time", f"{what}, time", ours_s)
    goal = _goal(f"{name}.bytes", f"{what}, stored", 0.2)
    yield compare(goal, ours_bytes, [theirs_bytes] * RUNS)
    goal = Goal(f"{name}.memory", f"{what}, memory", 64, "MiB more", at_least=False)
    yield Row(goal, grown_mib)


def _goal(id_: str, what: str, target: float) -> Goal:
    return Goal(id_, what, target, "× Litestream", at_least=False)


def _make_unlike(path: Path, run: int) -> None:
    """The same bytes again would be stored once."""
    with closing(sqlite3.connect(path)) as database:
        database.execute(f"pragma user_version = {run + 1}")


def _stored_bytes(plane: PlaneProcess) -> int:
    """What the store holds that outlives a container."""
    towns = plane.data.blobs / "towns"
    return sum(path.stat().st_size for path in towns.rglob("*") if path.is_file())
