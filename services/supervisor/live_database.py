"""A database that an agent is writing, held open for reading. One thread owns it.

Closing any descriptor of a database file drops every lock that this process has on it.
So each file is held by one object alone, SQLite opens it first and closes it first, and
the raw descriptors, through which pages are read, live in between.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import apsw

from services.chassis.errors import Reason, ServiceError

# Longer than a transaction of an agent takes; a save that fails is tried again.
BUSY_MS: Final = 5000
_READ: Final = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_NOFOLLOW
_REPAIR: Final = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_NOFOLLOW
_RAW: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_PARTS: Final = ("", "-wal", "-shm")

Identity = tuple[int, int]  # device, inode

# Every database that is held open here. Two owners of one would each take the other's
# locks for their own.
_held: Final[set[Identity]] = set()
_held_lock: Final = threading.Lock()


@dataclass(frozen=True, slots=True)
class Files:
    """Descriptors of a database in WAL mode. Borrowed: never close them."""

    main: int
    log: int
    index: int


class LiveDatabase:
    """Opens late and again: the database may not be there yet, may go, may be replaced
    by another file."""

    def __init__(self, path: Path, busy_ms: int = BUSY_MS) -> None:
        self.path = path
        self.openings = 0  # rises when what was read before says nothing any more
        self._busy_ms = busy_ms
        self._identity: Identity | None = None
        self._connections: list[apsw.Connection] = []
        self._descriptors: list[int] = []

    def open(self) -> apsw.Connection | None:
        """A connection to what lies at the path now; None if nothing does yet."""
        found = _identify(self.path)
        if found != self._identity or not self._parts_stay():
            self.close()
        if found is None:
            return None
        if not self._connections:
            self._hold(found)
            try:
                self._connect(_READ)
            except BaseException:
                self.close()
                raise
        return self._connections[0]

    def second(self) -> apsw.Connection:
        """Another connection, for a read transaction beside one that stays open."""
        if len(self._connections) < 2:
            self._connect(_READ)
        return self._connections[1]

    def files(self) -> Files | None:
        """For reading what SQLite has no call for; None unless all three are there.
        Only after the connection has read something: it may make two of them."""
        for part in _PARTS[len(self._descriptors) :]:
            try:
                self._descriptors.append(os.open(f"{self.path}{part}", _RAW))
            except FileNotFoundError:
                # Those that are open stay so: closing one would drop SQLite's locks.
                return None
        return Files(*self._descriptors)

    def repair(self) -> None:
        """Rolls back what a dead writer left, which only a writer may."""
        self.close()
        found = _identify(self.path)
        if found is None:
            return
        self._hold(found)
        try:
            connection = self._connect(_REPAIR)
            connection.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchall()
        finally:
            self.close()

    def close(self) -> None:
        """Lets go of everything. Safe to repeat."""
        for connection in self._connections:
            connection.close()
        self._connections = []
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors = []
        self.openings += 1
        if self._identity is not None:
            with _held_lock:
                _held.discard(self._identity)
            self._identity = None

    def _parts_stay(self) -> bool:
        """Whether the descriptors are still those of the files at the paths."""
        for part, descriptor in zip(_PARTS, self._descriptors, strict=False):
            ours = os.fstat(descriptor)
            try:
                found = os.lstat(f"{self.path}{part}")
            except FileNotFoundError:
                return False
            if (ours.st_dev, ours.st_ino) != (found.st_dev, found.st_ino):
                return False
        return True

    def _hold(self, identity: Identity) -> None:
        with _held_lock:
            if identity in _held:
                raise ServiceError(
                    Reason.LEASE_HELD,
                    f"cannot open {self.path} twice: end the other run that uses it",
                    path=self.path,
                )
            _held.add(identity)
        self._identity = identity

    def _connect(self, access: int) -> apsw.Connection:
        connection = apsw.Connection(str(self.path), flags=access)
        self._connections.append(connection)
        connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        connection.set_busy_timeout(self._busy_ms)
        return connection


def begin_reading(connection: apsw.Connection) -> None:
    """Opens a read transaction: from here on one committed state stands still."""
    connection.execute("BEGIN")
    try:
        # BEGIN alone takes no lock.
        connection.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchall()
    except BaseException:
        end_reading(connection)
        raise


def end_reading(connection: apsw.Connection) -> None:
    if connection.in_transaction:
        connection.execute("ROLLBACK")


def number(connection: apsw.Connection, pragma: str) -> int:
    """What a pragma answers that answers a number."""
    return int(connection.pragma(pragma))


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
def sqlite_refusals(path: Path) -> Iterator[None]:
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
