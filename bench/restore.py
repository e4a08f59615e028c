"""B4: a session back on an empty disk, proven, against Litestream's restore."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

from bench.database import Bulk, build
from bench.litestream import Litestream
from bench.others import Beside
from bench.rows import Goal, Row, compare
from bench.save import change
from bench.sessions import Session
from tests.support.plane import PlaneProcess

RUNS: Final = 5
# Small saves after the first: what is restored is a base and so many deltas.
DELTAS: Final = 8
CHANGED: Final = 60


def measure(
    plane: PlaneProcess, program: str, folder: Path, size_mb: int
) -> Iterator[Row]:
    """From a start on an empty disk to the answer that the agent runs."""
    bulk = build(folder / f"{size_mb}.db", size_mb)
    session = _saved(plane, bulk)
    peer = _replicated(program, folder, bulk)
    ours_s, theirs_s = list[float](), list[float]()
    beside = Beside(folder / "others")
    for run in range(RUNS + 1):
        session.lose_disk()
        begun = time.perf_counter()
        session.start()
        took_s = time.perf_counter() - begun
        session.stop()
        restored = peer.folder / "restored.db"
        peer_s = peer.restore(restored)
        restored.unlink()
        if run:  # the first warms up
            ours_s.append(took_s)
            theirs_s.append(peer_s)
            beside.run(bulk.path)
    session.lose_disk()
    peer.remove()
    what = f"restore of {size_mb} MB"
    goal = Goal(f"B4.{size_mb}MB", what, 4, "× as fast as Litestream", at_least=True)
    yield compare(goal, theirs_s, ours_s)
    yield from beside.fetched(f"B4.{size_mb}MB", what, ours_s)


def _saved(plane: PlaneProcess, bulk: Bulk) -> Session:
    """An agent that has ended, all its work saved."""
    session = Session(plane, f"bench-restore-{bulk.rows}")
    session.start()
    session.reveal(session.prepare(bulk))
    session.save()
    with closing(sqlite3.connect(session.database, timeout=10)) as database:
        for seed in range(DELTAS):
            change(database, bulk, CHANGED, seed)
            session.save()
    session.stop()
    return session


def _replicated(program: str, folder: Path, bulk: Bulk) -> Litestream:
    """The same work, replicated, every level made."""
    peer = Litestream(program, folder / "litestream")
    bulk.copy_to(peer.database)
    peer.settle()
    with (
        peer.replicating(),
        closing(sqlite3.connect(peer.database, timeout=10)) as database,
    ):
        for seed in range(DELTAS):
            change(database, bulk, CHANGED, seed)
            peer.sync()
    return peer
