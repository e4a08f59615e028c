"""B5: a save of a few scattered pages of a big database, durable, auth and all."""

from __future__ import annotations

import os
import random
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

from bench.bare import sync_folder
from bench.rows import Goal, Row, compare
from tests.support.plane import PlaneProcess
from tests.support.waiting import wait_until_sync
from townkeeper.registry.v1 import resources_pb2
from townkeeper.supervisor.v1 import supervisor_pb2

AGENT: Final = "bench-save"
DATABASE: Final = "bench.db"
# One row fills most of a page of 4 KiB, so so many rows are some 100 MB.
ROWS: Final = 25_000
ROW_BYTES: Final = 3_600
CHANGED: Final = 60
RUNS: Final = 7
# Below the 16 deltas after which a save is a base again.
TRIES_MAX: Final = 14
BUILD_S: Final = 60.0
CALL_S: Final = 60.0

GOAL: Final = Goal(
    "B5",
    f"{CHANGED} pages of 100 MB",
    0.01,
    "× backup",
    at_least=False,
)

# The agent: makes its database in one commit, then waits for its end.
PROGRAM: Final = f"""
import os, sqlite3, sys
path = os.environ["TOWNKEEPER_DATABASE"]
database = sqlite3.connect(path)
database.execute("pragma journal_mode = wal")
with database:
    database.execute("create table if not exists page (id integer primary key, x)")
    database.execute(
        "with recursive n(i) as (select 1 union all select i + 1 from n where i < ?)"
        " insert or ignore into page select i, randomblob(?) from n",
        ({ROWS}, {ROW_BYTES}),
    )
database.execute("pragma wal_checkpoint(truncate)")
sys.stdin.read()
"""


def measure(plane: PlaneProcess, folder: Path) -> Iterator[Row]:
    """Change, save, back up; again and again, on the same live file."""
    _start(plane)
    path = _built(plane)
    _save(plane)  # the first is a base
    ours, baseline = list[float](), list[float]()
    with closing(sqlite3.connect(path, timeout=10)) as database:
        for run in range(TRIES_MAX):
            before = _save(plane)
            _change(database, seed=run)
            begun = time.perf_counter()
            generation = _save(plane)
            took_s = time.perf_counter() - begun
            backup_s = _back_up(database, folder / "backup.db")
            # Else the supervisor's own save, each second, came before ours.
            if generation == before + 1:
                ours.append(took_s)
                baseline.append(backup_s)
            if len(ours) == RUNS:
                break
    yield compare(GOAL, ours, baseline)


def _start(plane: PlaneProcess) -> None:
    spec = resources_pb2.AgentSpec(
        rig_id="rig-1",
        role=resources_pb2.ROLE_POLECAT,
        lightweight=True,
        runtime=resources_pb2.RUNTIME_EXEC,
        command=[sys.executable, "-c", PROGRAM],
        database=DATABASE,
    )
    name = plane.agent_name(AGENT)
    request = supervisor_pb2.StartAgentRequest(name=name, spec=spec)
    plane.supervisor().StartAgent(request, timeout=CALL_S)


def _built(plane: PlaneProcess) -> Path:
    """The agent's database, once all its rows are there."""

    def found() -> Path | None:
        for path in plane.data.container.rglob(DATABASE):
            # No connection before the file is a database, and none that writes.
            if path.stat().st_size >= ROWS * ROW_BYTES:
                return path
        return None

    path = wait_until_sync(found, what="the database is built", limit_s=BUILD_S)
    assert path is not None
    return path


def _save(plane: PlaneProcess) -> int:
    request = supervisor_pb2.SaveAgentRequest(name=plane.agent_name(AGENT))
    reply = plane.supervisor().SaveAgent(request, timeout=CALL_S)
    return int(reply.generation)


def _change(database: sqlite3.Connection, seed: int) -> None:
    """One commit that changes pages all over the file."""
    ids = random.Random(seed).sample(range(1, ROWS + 1), CHANGED)
    with database:
        database.executemany(
            "update page set x = randomblob(?) where id = ?",
            [(ROW_BYTES, one) for one in ids],
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
