"""Databases of a given size, as large sessions are: rows of natural text."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.prose import source

MB: Final = 1_000_000
# One row fills most of a page of 4 KiB.
ROW_LENGTH: Final = 3_600
_PAGE_BYTES: Final = 4_096


@dataclass(frozen=True, slots=True)
class Bulk:
    """A database that nobody has open, to be copied to where it is wanted."""

    path: Path
    rows: int

    def copy_to(self, target: Path) -> Path:
        """A copy that is on the disk already: whoever reads it waits for no flush."""
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self.path, target)
        with target.open("rb") as file:
            os.fsync(file.fileno())
        return target

    def scattered(self, count: int, seed: int) -> Sequence[int]:
        """Rows all over the file."""
        return random.Random(seed).sample(range(1, self.rows + 1), count)


def build(path: Path, megabytes: int) -> Bulk:
    """A database of so many MB, in WAL mode, its log empty; built once a path."""
    rows = megabytes * MB // _PAGE_BYTES
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f"{path.name}.building")
        beside.unlink(missing_ok=True)
        with closing(sqlite3.connect(beside)) as database:
            database.execute("pragma synchronous = off")
            with database:
                database.execute("create table page (id integer primary key, x)")
                database.executemany("insert into page values (?, ?)", _texts(rows))
            database.execute("pragma journal_mode = wal")
            database.execute("pragma wal_checkpoint(truncate)")
        os.replace(beside, path)
    return Bulk(path, rows)


def row_text(chance: random.Random) -> str:
    """What a row holds."""
    at = chance.randrange(len(source()) - ROW_LENGTH)
    return source()[at : at + ROW_LENGTH]


def _texts(rows: int) -> Iterator[tuple[int, str]]:
    chance = random.Random(rows)
    for number in range(1, rows + 1):
        yield number, row_text(chance)
