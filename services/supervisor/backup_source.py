"""The reference way to read a live database: SQLite's own online backup, whole.

It needs no knowledge of SQLite's files and is the oracle for every faster way. Its cost
follows the size of the database, not what changed.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Final

import apsw

from services.segments.disk import write_all
from services.segments.page_map import PageMap
from services.supervisor.capture import Capture, Reading, Shape, Way
from services.supervisor.changes import compare
from services.supervisor.live_database import (
    LiveDatabase,
    begin_reading,
    end_reading,
    number,
    sqlite_refusals,
)

# Where page 1 holds the schema's version, big-endian. The backup counts its own.
_SCHEMA_VERSION_OFFSET: Final = 40
# A reader of a rollback-journal database keeps writers out: for so many pages at a
# time, some milliseconds.
_STEP_PAGES: Final = 1024
# A writer that never pauses makes the copy begin anew; then it has to wait for once.
_STEPPED_TRIES: Final = 3


class BackupSource:
    """A `Source`."""

    def __init__(self, database: LiveDatabase, scratch: Path) -> None:
        self._database = database
        self._scratch = scratch
        self.reading = Reading(Way.NOTHING)
        # The opening of the database, and SQLite's count of others' commits then, as
        # of the last committed capture.
        self._clean: tuple[int, int] | None = None

    def changed(self) -> bool:
        with sqlite_refusals(self._database.path):
            connection = self._database.open()
            if connection is None:
                return False
            if self._clean is None or self._clean[0] != self._database.openings:
                return True
            try:
                return number(connection, "data_version") != self._clean[1]
            except (apsw.BusyError, apsw.ReadOnlyError):
                return True  # Somebody is writing, or died while doing so.

    def capture(self, page_map: PageMap, *, base: bool = False) -> Capture | None:
        with sqlite_refusals(self._database.path):
            connection = self._database.open()
            if connection is None:
                return None
            try:
                copied = self._copy(connection)
            except apsw.ReadOnlyError:
                # A dead writer left a journal that only a writer may roll back.
                self._database.repair()
                connection = self._database.open()
                copied = self._copy(connection) if connection is not None else None
        if copied is None:
            return None
        image, shape, version = copied
        self.reading = Reading(Way.BACKUP, shape.page_count)
        capture = compare(image, shape, page_map, self._scratch, base=base)
        settle = self._settling(version)
        if capture is None:
            settle()
            return None
        capture.on_commit = settle
        return capture

    def let_go(self) -> None:
        """Nothing is ever kept open."""

    def close(self) -> None:
        self._database.close()

    def _settling(self, version: int) -> Callable[[], None]:
        opening = self._database.openings

        def settle() -> None:
            self._clean = (opening, version)

        return settle

    def _copy(self, connection: apsw.Connection) -> tuple[int, Shape, int] | None:
        """One committed state as an open file without a name, and its version."""
        path = self._scratch / f"{self._database.path.name}.image"
        path.unlink(missing_ok=True)
        try:
            found = None
            if connection.pragma("journal_mode") != "wal":
                found = _copied_in_steps(connection, path)
            if found is None:
                found = _copied_at_once(connection, path)
            shape, version, schema_version = found
            if not shape.page_count:
                return None
            image = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        finally:
            path.unlink(missing_ok=True)
        write_all(image, struct.pack(">I", schema_version), _SCHEMA_VERSION_OFFSET)
        return image, shape, version


_Copied = tuple[Shape, int, int]  # and its data version and its schema's version


def _copied_in_steps(connection: apsw.Connection, path: Path) -> _Copied | None:
    """Lets writers in between steps; None if one always came."""
    for _ in range(_STEPPED_TRIES):
        before = _described(connection)
        _back_up(connection, path, before[0].page_count)
        if _described(connection) == before:
            return before
    return None


def _copied_at_once(connection: apsw.Connection, path: Path) -> _Copied:
    begin_reading(connection)
    try:
        found = _state(connection)
        _back_up(connection, path)
    finally:
        end_reading(connection)
    return found


def _described(connection: apsw.Connection) -> _Copied:
    begin_reading(connection)
    try:
        return _state(connection)
    finally:
        end_reading(connection)


def _state(connection: apsw.Connection) -> _Copied:
    shape = Shape(number(connection, "page_size"), number(connection, "page_count"))
    version = number(connection, "data_version")
    return shape, version, number(connection, "schema_version")


def _back_up(source: apsw.Connection, path: Path, in_steps_of: int = 0) -> None:
    """The whole, at once; or in steps, as many as this number of pages takes, twice."""
    # What an earlier try left is half a database, on which none can be opened.
    path.unlink(missing_ok=True)
    target = apsw.Connection(str(path))
    try:
        # Of use to nobody after a crash, so nothing is journalled or synced.
        target.pragma("journal_mode", "off")
        target.pragma("synchronous", 0)
        target.pragma("locking_mode", "exclusive")
        with target.backup("main", source, "main") as backup:
            if not in_steps_of:
                while not backup.step(-1):
                    pass
                return
            for _ in range(2 * (in_steps_of // _STEP_PAGES + 1)):
                if backup.step(_STEP_PAGES):
                    return
    finally:
        target.close()
