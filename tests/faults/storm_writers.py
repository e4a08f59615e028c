"""Writers that do to a database all that may go wrong under a reader, each a process.

`python -m tests.faults.storm_writers KIND DATABASE SEED`; ended from outside. They use
an SQLite that has the fix of the WAL-reset bug.
"""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import apsw

ROWS = 27_000
ROW_BYTES = 2_000  # two rows a page: about 55 MB
BUSY_MS = 20_000
PAUSE_S = {"small": 0.02, "large": 0.2, "keeper": 0.2}


def build(path: Path, rows: int = ROWS) -> None:
    """The database before the storm."""
    connection = _opened(path)
    connection.execute(
        "CREATE TABLE page(id INTEGER PRIMARY KEY, turn INTEGER, body BLOB)"
    )
    connection.execute(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)"
        " INSERT INTO page SELECT i, 0, randomblob(?) FROM n",
        (rows, ROW_BYTES),
    )
    connection.execute("CREATE INDEX by_turn ON page(turn)")
    connection.close()


def small(connection: apsw.Connection, chance: random.Random) -> None:
    """A few rows, as a turn writes them; some are taken back."""
    connection.execute("BEGIN IMMEDIATE")
    for _ in range(chance.randint(1, 6)):
        _touch(connection, chance)
    connection.execute("ROLLBACK" if chance.random() < 0.1 else "COMMIT")


def large(connection: apsw.Connection, chance: random.Random) -> None:
    """More than the cache holds, so pages reach the log before the commit."""
    connection.execute("BEGIN IMMEDIATE")
    first = chance.randint(1, ROWS)
    connection.execute(
        "UPDATE page SET turn = turn + 1, body = randomblob(?)"
        " WHERE id BETWEEN ? AND ?",
        (ROW_BYTES, first, first + chance.randint(50, 1500)),
    )
    connection.execute("ROLLBACK" if chance.random() < 0.4 else "COMMIT")


def keeper(connection: apsw.Connection, chance: random.Random) -> None:
    """Moves, cuts and rebuilds what the others write."""
    mode = chance.choice(["PASSIVE", "FULL", "RESTART", "TRUNCATE"])
    match chance.random():
        case share if share < 0.80:
            connection.execute(f"PRAGMA wal_checkpoint({mode})").fetchall()
        case share if share < 0.90:
            limit = chance.choice([-1, 0, 100_000, 2_000_000])
            connection.execute(f"PRAGMA journal_size_limit={limit}").fetchall()
        case share if share < 0.97:
            doomed = chance.randint(1, ROWS)
            connection.execute(
                "DELETE FROM page WHERE id BETWEEN ? AND ?",
                (doomed, doomed + chance.randint(1, 3000)),
            )
        case _:
            connection.execute("VACUUM")


KINDS: dict[str, Callable[[apsw.Connection, random.Random], None]] = {
    "small": small,
    "large": large,
    "keeper": keeper,
}


def _touch(connection: apsw.Connection, chance: random.Random) -> None:
    number = chance.randint(1, ROWS)
    connection.execute(
        "INSERT INTO page VALUES(?, 1, randomblob(?))"
        " ON CONFLICT(id) DO UPDATE SET turn = turn + 1, body = excluded.body",
        (number, ROW_BYTES),
    )


def _opened(path: Path) -> apsw.Connection:
    connection = apsw.Connection(str(path))
    connection.set_busy_timeout(BUSY_MS)
    connection.pragma("journal_mode", "wal")
    connection.pragma("synchronous", "normal")
    return connection


def main() -> None:
    kind, path, seed = sys.argv[1:4]
    chance = random.Random(f"{kind} {seed}")
    connection = _opened(Path(path))
    # Page-cache pressure: large transactions spill into the log.
    connection.pragma("cache_size", 50 if kind == "large" else -2000)
    connection.pragma("wal_autocheckpoint", chance.choice([100, 400, 1000]))
    pause = threading.Event()
    while True:
        # Else the log never ends on a machine that is slower than they are.
        pause.wait(chance.uniform(0, PAUSE_S[kind]))
        try:
            KINDS[kind](connection, chance)
        except apsw.BusyError:
            if connection.in_transaction:
                connection.execute("ROLLBACK")


if __name__ == "__main__":
    main()
