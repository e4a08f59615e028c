"""B5: a save of a few scattered pages of a big database, durable, auth and all."""

from __future__ import annotations

import os
import random
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bench.bare import sync_folder
from bench.database import Bulk, build, row_text
from bench.rows import Goal, Row, compare
from bench.sessions import Session
from tests.support.plane import PlaneProcess

CHANGED: Final = 60
RUNS: Final = 7
# Below the 16 segments from which on a chain is compacted beside the saves.
TRIES_MAX: Final = 14
SMALL_MB: Final = 100

_WHAT: Final = f"{CHANGED} pages of"


@dataclass(frozen=True, slots=True)
class Times:
    """What stood side by side."""

    ours_s: list[float] = field(default_factory=list)
    backup_s: list[float] = field(default_factory=list)


def measure(
    plane: PlaneProcess, folder: Path, sizes_mb: Sequence[int]
) -> Iterator[Row]:
    """Against SQLite's own backup, and each size against the smallest."""
    times = {size: _measure(plane, folder, size) for size in (SMALL_MB, *sizes_mb)}
    small = times.pop(SMALL_MB)
    for size, found in times.items():
        goal = _goal(f"B5.{size}MB", f"{_WHAT} {size} MB", 0.01, "× backup")
        yield compare(goal, found.ours_s, found.backup_s)
        what = f"{_WHAT} {size} MB against {SMALL_MB} MB"
        goal = _goal(f"B5.{size}MB.scale", what, 1.5, f"× {SMALL_MB} MB")
        yield compare(goal, found.ours_s, small.ours_s)
    goal = _goal(f"B5.{SMALL_MB}MB", f"{_WHAT} {SMALL_MB} MB", 0.01, "× backup")
    yield compare(goal, small.ours_s, small.backup_s)


def _goal(id_: str, what: str, target: float, unit: str) -> Goal:
    return Goal(id_, what, target, unit, at_least=False)


def _measure(plane: PlaneProcess, folder: Path, size_mb: int) -> Times:
    """Change, save, back up; again and again, on the same live file."""
    bulk = build(folder / f"{size_mb}.db", size_mb)
    session = Session(plane, f"bench-save-{size_mb}")
    session.start()
    session.reveal(session.prepare(bulk))
    session.save()  # the first is a base
    times = Times()
    with closing(sqlite3.connect(session.database, timeout=10)) as database:
        for run in range(TRIES_MAX):
            before = session.save()
            change(database, bulk, CHANGED, seed=run)
            begun = time.perf_counter()
            generation = session.save()
            took_s = time.perf_counter() - begun
            backup_s = _back_up(database, folder / "backup.db")
            # Else the supervisor's own save, each second, came before ours.
            if generation == before + 1:
                times.ours_s.append(took_s)
                times.backup_s.append(backup_s)
            if len(times.ours_s) == RUNS:
                break
    session.stop()
    return times


def change(database: sqlite3.Connection, bulk: Bulk, count: int, seed: int) -> None:
    """One commit that changes pages all over the file."""
    chance = random.Random(seed)
    with database:
        database.executemany(
            "update page set x = ? where id = ?",
            [(row_text(chance), row) for row in bulk.scattered(count, seed)],
        )


def _back_up(database: sqlite3.Connection, path: Path) -> float:
    """Seconds for SQLite's own backup to a new file, as durable as ours."""
    path.unlink(missing_ok=True)
    begun = time.perf_counter()
    with closing(sqlite3.connect(path)) as target:
        # It syncs by itself at its end; once more says so, and costs nothing then.
        database.backup(target)
    with path.open("rb") as file:
        os.fsync(file.fileno())
    sync_folder(path.parent)
    return time.perf_counter() - begun
