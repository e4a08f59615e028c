"""A writer as agents are, in a process of its own: so many small commits a second.

`kilo`: each commit rewrites the same two dozen pages, as a turn of Kilo does (1,200
frames a second). `light`: each commit changes one row and adds to a small log.
"""

from __future__ import annotations

import argparse
import selectors
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

COMMITS_A_SECOND: Final = 50
HOT_ROWS: Final = 23
LIGHT_ROWS: Final = 18
START_S: Final = 30.0
STOP_S: Final = 10.0

# A few characters of a row change, the rest stays: it is what hot pages are like.
_UPDATE: Final = (
    "update page set x = substr(x, 1, 3580) || printf('%20d', ?) where id = ?"
)


def kilo(database: sqlite3.Connection, number: int, row: Callable[[int], int]) -> None:
    database.executemany(_UPDATE, [(number, row(at)) for at in range(HOT_ROWS)])


def light(database: sqlite3.Connection, number: int, row: Callable[[int], int]) -> None:
    database.execute(_UPDATE, (number, row(number % LIGHT_ROWS)))


KINDS: Final = {"kilo": kilo, "light": light}


def main() -> None:
    """Writes until killed, at an even pace: `python -m bench.traffic kilo PATH`."""
    parser = argparse.ArgumentParser(prog="python -m bench.traffic")
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("path", type=Path)
    options = parser.parse_args()
    commit = KINDS[options.kind]
    with closing(sqlite3.connect(options.path, timeout=30)) as database:
        database.execute("pragma synchronous = normal")
        rows = database.execute("select max(id) from page").fetchone()[0]
        database.execute("create table if not exists log (id integer primary key, x)")
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        begun = time.monotonic()
        number = 0
        while True:
            with database:
                # Spread over the whole file, so that each is a page of its own.
                commit(database, number, lambda at: 1 + (at * 7919) % rows)
                database.execute("insert into log (x) values (?)", (f"{number:>100}",))
            number += 1
            # Late commits are not made up for: the pace is the same for everybody.
            wait_s = begun + number / COMMITS_A_SECOND - time.monotonic()
            if wait_s > 0:
                time.sleep(wait_s)
            else:
                begun -= wait_s


@contextmanager
def writing(kind: str, path: Path) -> Iterator[None]:
    """As long as the block lasts."""
    command = [sys.executable, "-m", "bench.traffic", kind, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            with selectors.DefaultSelector() as selector:
                selector.register(process.stdout, selectors.EVENT_READ)
                assert selector.select(START_S), "the writer does not start"
            yield
        finally:
            process.kill()
            process.wait(STOP_S)


if __name__ == "__main__":
    main()
