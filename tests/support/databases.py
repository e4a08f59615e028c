"""Whole SQLite files as bytes: sound ones, and ones that only look like it."""

from __future__ import annotations

from pathlib import Path

from tests.support.sqlite import fill, opened


def database(
    path: Path, *, rows: int = 50, page_size: int = 4096, journal: str = "delete"
) -> bytes:
    """A sound database, checkpointed, as its bytes."""
    path.unlink(missing_ok=True)
    with opened(path, journal, page_size) as connection:
        fill(connection, rows)
        connection.execute("CREATE INDEX by_body ON t (body)")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path.read_bytes()


def torn(data: bytes, page_size: int = 4096) -> bytes:
    """One page in the middle is of another time."""
    middle = len(data) // page_size // 2 * page_size
    return data[:middle] + bytes(page_size) + data[middle + page_size :]
