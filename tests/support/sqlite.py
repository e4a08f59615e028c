"""Databases under change, and what SQLite itself says is in them."""

from __future__ import annotations

import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw

# The backup counts changes and schema versions of its own, and signs with its version.
_REWRITTEN = [range(24, 28), range(40, 44), range(92, 100)]


@contextmanager
def opened(
    path: Path, journal_mode: str = "wal", page_size: int = 4096
) -> Iterator[apsw.Connection]:
    """A connection as an agent's would be, in the one SQLite library of this process:
    a second one would not see the first one's locks."""
    connection = apsw.Connection(str(path))
    try:
        connection.set_busy_timeout(2000)
        connection.pragma("page_size", page_size)
        connection.pragma("journal_mode", journal_mode)
        yield connection
    finally:
        connection.close()


def fill(connection: apsw.Connection, rows: int, size: int = 500) -> None:
    connection.execute("CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, body)")
    with connection:
        connection.executemany(
            "INSERT INTO t(body) VALUES(randomblob(?))", [(size,)] * rows
        )


def oracle(path: Path) -> bytes:
    """What SQLite reads at this moment, exactly, by a way of its own."""
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        connection.set_busy_timeout(2000)
        return connection.serialize("main")
    finally:
        connection.close()


def masked(image: bytes) -> bytes:
    """Without the header bytes that a backup writes anew, and without what free pages
    hold: SQLite writes there and does not take it back when it rolls back."""
    raw = bytearray(image)
    for part in _REWRITTEN:
        raw[part.start : part.stop] = bytes(len(part))
    size = struct.unpack_from(">H", raw, 16)[0]
    size = 65_536 if size == 1 else size
    for page in _free_leaves(image, size):
        raw[(page - 1) * size : page * size] = bytes(size)
    return bytes(raw)


def _free_leaves(image: bytes, page_size: int) -> Iterator[int]:
    """The free pages that hold nothing of the list of them."""
    (trunk,) = struct.unpack_from(">I", image, 32)
    while trunk:
        start = (trunk - 1) * page_size
        trunk, count = struct.unpack_from(">II", image, start)
        yield from struct.unpack_from(f">{count}I", image, start + 8)


def soundness(path: Path) -> str:
    connection = apsw.Connection(str(path))
    try:
        return str(connection.pragma("integrity_check"))
    finally:
        connection.close()


def left_by_the_dead(folder: Path, script: str) -> None:
    """Runs a script in a process that kills itself at its end, in `folder`."""
    code = f"import apsw, os, signal\n{script}\nos.kill(os.getpid(), signal.SIGKILL)"
    ended = subprocess.run([sys.executable, "-c", code], cwd=folder, timeout=15)
    assert ended.returncode == -9
