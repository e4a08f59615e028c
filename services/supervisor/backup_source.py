"""The reference way to read a live database: SQLite's own online backup, whole.

It disturbs nobody, needs no knowledge of SQLite's files and is the oracle for every
faster way. Its cost follows the size of the database, not what changed.
"""

from __future__ import annotations

import os
import stat
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import apsw

from services.chassis.errors import Reason, ServiceError
from services.segments.disk import write_all
from services.segments.page_map import PageMap
from services.supervisor.changes import Capture, Shape, compare

# Longer than a transaction of an agent takes; a save that fails is tried again.
BUSY_MS: Final = 5000
_READ: Final = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_NOFOLLOW
_REPAIR: Final = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_NOFOLLOW
# Where page 1 holds the schema's version, big-endian. The backup counts its own.
_SCHEMA_VERSION_OFFSET: Final = 40

Identity = tuple[int, int]  # device, inode

# Every database that is held open here. Two owners of one would each take the other's
# locks for their own.
_held: Final[set[Identity]] = set()
_held_lock: Final = threading.Lock()


class BackupSource:
    """A `Source`. Opens late and again: the database may not be there yet, may go, may
    be replaced by another file."""

    def __init__(self, database: Path, scratch: Path, busy_ms: int = BUSY_MS) -> None:
        self._path = database
        self._scratch = scratch
        self._busy_ms = busy_ms
        self._connection: apsw.Connection | None = None
        self._identity: Identity | None = None
        # SQLite's count of other connections' commits, as of the last committed
        # capture; good for this connection only.
        self._clean: int | None = None

    def changed(self) -> bool:
        with _refusals(self._path):
            connection = self._open()
            if connection is None:
                return False
            if self._clean is None:
                return True
            try:
                return _number(connection, "data_version") != self._clean
            except (apsw.BusyError, apsw.ReadOnlyError):
                return True  # Somebody is writing, or died while doing so.

    def capture(self, page_map: PageMap, *, base: bool = False) -> Capture | None:
        with _refusals(self._path):
            connection = self._open()
            if connection is None:
                return None
            try:
                copied = self._copy(connection)
            except apsw.ReadOnlyError:
                # A dead writer left a journal that only a writer may roll back.
                self.close()
                self._repair()
                connection = self._open()
                copied = self._copy(connection) if connection is not None else None
        if copied is None or connection is None:
            return None
        image, shape, version = copied
        capture = compare(image, shape, page_map, self._scratch, base=base)
        settle = self._settling(connection, version)
        if capture is None:
            settle()
            return None
        capture.on_commit = settle
        return capture

    def close(self) -> None:
        self._clean = None
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._identity is not None:
            with _held_lock:
                _held.discard(self._identity)
            self._identity = None

    def _settling(
        self, connection: apsw.Connection, version: int
    ) -> Callable[[], None]:
        def settle() -> None:
            if self._connection is connection:
                self._clean = version

        return settle

    def _open(self) -> apsw.Connection | None:
        """The connection to what lies at the path now; None if nothing does yet."""
        found = _identify(self._path)
        if found != self._identity:
            self.close()
        if found is None:
            return None
        if self._connection is None:
            self._hold(found)
            try:
                self._connection = self._connect(_READ)
            except BaseException:
                self.close()
                raise
        return self._connection

    def _hold(self, identity: Identity) -> None:
        with _held_lock:
            if identity in _held:
                raise ServiceError(
                    Reason.LEASE_HELD,
                    f"cannot open {self._path} twice: end the other run that uses it",
                    path=self._path,
                )
            _held.add(identity)
        self._identity = identity

    def _connect(self, access: int) -> apsw.Connection:
        connection = apsw.Connection(str(self._path), flags=access)
        connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        connection.set_busy_timeout(self._busy_ms)
        return connection

    def _repair(self) -> None:
        connection = self._connect(_REPAIR)
        try:
            connection.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchall()
        finally:
            connection.close()

    def _copy(self, connection: apsw.Connection) -> tuple[int, Shape, int] | None:
        """One committed state as an open file without a name, and its version."""
        connection.execute("BEGIN")
        try:
            # BEGIN alone takes no lock; from this read on the state stands still.
            connection.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchall()
            shape = Shape(
                _number(connection, "page_size"), _number(connection, "page_count")
            )
            version = _number(connection, "data_version")
            schema_version = _number(connection, "schema_version")
            if not shape.page_count:
                return None
            path = self._scratch / f"{self._path.name}.image"
            path.unlink(missing_ok=True)
            try:
                _back_up(connection, path)
                image = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            finally:
                path.unlink(missing_ok=True)
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        raw = struct.pack(">I", schema_version)
        write_all(image, raw, _SCHEMA_VERSION_OFFSET)
        return image, shape, version


def _back_up(source: apsw.Connection, path: Path) -> None:
    target = apsw.Connection(str(path))
    try:
        # Of use to nobody after a crash, so nothing is journalled or synced.
        target.pragma("journal_mode", "off")
        target.pragma("synchronous", 0)
        target.pragma("locking_mode", "exclusive")
        with target.backup("main", source, "main") as backup:
            while not backup.step(-1):
                pass
    finally:
        target.close()


def _number(connection: apsw.Connection, name: str) -> int:
    value = connection.pragma(name)
    assert isinstance(value, int)
    return value


def _identify(path: Path) -> Identity | None:
    """Which file lies there; None if none does, or one that is empty still."""
    try:
        found = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    if not stat.S_ISREG(found.st_mode):
        raise ServiceError(
            Reason.FIELD_INVALID,
            f"cannot save {path}: it is a link or no plain file; put the database"
            " itself there",
            path=path,
        )
    return (found.st_dev, found.st_ino) if found.st_size else None


@contextmanager
def _refusals(path: Path) -> Iterator[None]:
    """SQLite's errors as ours."""
    try:
        yield
    except apsw.Error as error:
        reason, advice = Reason.INTERNAL, "look at the file and its folder"
        if isinstance(error, apsw.NotADBError):
            reason, advice = Reason.NOT_A_DATABASE, "it is no SQLite database"
        elif isinstance(error, apsw.CorruptError):
            reason, advice = Reason.SNAPSHOT_CORRUPT, "restore an older generation"
        elif isinstance(error, apsw.BusyError | apsw.LockedError):
            reason, advice = Reason.SERVICE_UNAVAILABLE, "its agent keeps it locked"
        elif isinstance(error, apsw.FullError):
            reason, advice = Reason.STORAGE_FULL, "free some space"
        raise ServiceError(
            reason, f"cannot save {path}: {error}; {advice}", path=path
        ) from error
