"""What Kilo's database says, asked through SQLite: blocking, one connection a call.

Asked instead of Kilo's HTTP interface where that would read a whole history. Always
through apsw, as the saver does: two SQLite libraries in one process would drop each
other's locks.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import apsw

from services.chassis.errors import Reason, ServiceError
from services.supervisor.kilo.ids import SUFFIX_LENGTH, judge, suffix_of
from services.supervisor.runtime import Stored

BUSY_MS = 2000
# Where a session's place on disk is written: a later version may lack some.
_PLACES = (
    ("session", "directory"),
    ("project", "worktree"),
    ("project_directory", "directory"),
)


@dataclass(frozen=True, slots=True)
class Found:
    """One inbox message in a session."""

    stored: Stored
    message_id: str | None = None  # Kilo's; None when ABSENT
    failed: bool = False  # ANSWERED, with an error


def find_message(database: Path, session_id: str, inbox_id: str) -> Found:
    """What became of an inbox message that was delivered at any time."""
    with _reading(database) as connection:
        row = connection.execute(
            "select id, time_created from message where session_id = ?"
            " and substr(id, ?) = ? order by time_created desc limit 1",
            (session_id, -SUFFIX_LENGTH, suffix_of(inbox_id)),
        ).fetchone()
        if row is None:
            return Found(Stored.ABSENT)
        message_id, created = cast(tuple[str, int], row)
        # An answer is never older than its question, but by clocks set back.
        later = connection.execute(
            "select data from message where session_id = ? and time_created >= ?"
            " order by time_created, id",
            (session_id, created - 1),
        ).fetchall()
    answers = [json.loads(str(data)) for (data,) in later]
    answers = [info for info in answers if info.get("parentID") == message_id]
    stored, failed = judge(answers)
    return Found(stored, message_id, failed)


def last_message_id(database: Path, session_id: str) -> str | None:
    """The newest message of a session."""
    with _reading(database) as connection:
        row = connection.execute(
            "select id from message where session_id = ?"
            " order by time_created desc, id desc limit 1",
            (session_id,),
        ).fetchone()
    return str(row[0]) if row else None


def move_session(database: Path, session_id: str, workdir: Path) -> bool:
    """Says that the session's project now lies at `workdir`; True if it was elsewhere.

    Kilo 7.7 binds a session to the directory that it was made in: restored at another
    path every tool call fails. Call only while no program has the database open.
    """
    with _opened(database, apsw.SQLITE_OPEN_READWRITE) as connection:
        if not _has(connection, "session", "directory"):
            return False
        row = connection.execute(
            "select directory from session where id = ?", (session_id,)
        ).fetchone()
        if row is None or not row[0] or row[0] == str(workdir):
            return False
        old = str(row[0])
        with connection:
            for table, column in _PLACES:
                if _has(connection, table, column):
                    _replace_prefix(connection, table, column, old, str(workdir))
    return True


def _replace_prefix(
    connection: apsw.Connection, table: str, column: str, old: str, new: str
) -> None:
    connection.execute(
        f"update {table} set {column} = ? || substr({column}, ?)"
        f" where {column} = ? or substr({column}, 1, ?) = ?",
        (new, len(old) + 1, old, len(old) + 1, old + "/"),
    )


def _has(connection: apsw.Connection, table: str, column: str) -> bool:
    found = connection.execute(
        "select 1 from pragma_table_info(?) where name = ?", (table, column)
    )
    return found.fetchone() is not None


@contextmanager
def _reading(database: Path) -> Iterator[apsw.Connection]:
    """A reader that never checkpoints, not even as the last one to close."""
    with _opened(database, apsw.SQLITE_OPEN_READONLY) as connection:
        connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        yield connection


@contextmanager
def _opened(database: Path, access: int) -> Iterator[apsw.Connection]:
    try:
        connection = apsw.Connection(
            str(database), flags=access | apsw.SQLITE_OPEN_NOFOLLOW
        )
        try:
            connection.set_busy_timeout(BUSY_MS)
            yield connection
        finally:
            connection.close()
    except apsw.Error as error:
        raise ServiceError(
            Reason.RUNTIME_UNREACHABLE,
            f"cannot read the agent's session database: {error}",
            database=database,
        ) from error
