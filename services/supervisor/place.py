"""Puts a database that was built and proven page by page into its place.

Asks SQLite whether the content is sound too, then replaces what lay there in an order
in which no crash leaves a mixture: an old log beside a new file would be replayed into
it without a word.
"""

from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final

import apsw

from services.chassis.errors import Reason, ServiceError
from services.segments.disk import refusing_full_disk

# integrity_check reads indexes against tables, 1 ms a MiB; quick_check a fifth of it.
FULL_CHECK_BYTES_MAX: Final = 256 << 20
SIDE_SUFFIXES: Final = ("-wal", "-shm", "-journal")
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

Identity = tuple[int, int]  # device, inode
Owner = tuple[int, int]  # uid, gid


def place(
    built: Path,
    database: Path,
    *,
    root: Path | None = None,
    owner: Owner | None = None,
) -> None:
    """Moves `built`, on the same disk, to `database`, both durably. Blocks.

    `root`: the folder from which on nobody else is trusted: below it no link is
    followed; missing folders are made. `owner`: to whom file and made folders are
    given.

    Raises NOT_A_DATABASE or SNAPSHOT_CORRUPT when the content is not sound, LEASE_HELD
    while a process has the old file open, FIELD_INVALID for links. Nothing is changed
    then.
    """
    _prove_and_sync(built)
    with ExitStack() as stack, refusing_full_disk(str(database)):
        folder = _open_folder(stack, root or database.parent, database, owner)
        name = database.name
        _refuse_odd(folder, database)
        _refuse_users(folder, database)
        if owner is not None:
            os.chown(built, *owner, follow_symlinks=False)
        # The main file goes first: a log without it is ignored, it without its log
        # would be an older state that looks whole.
        for each in (name, *(name + suffix for suffix in SIDE_SUFFIXES)):
            _remove(folder, each)
        os.fsync(folder)
        os.rename(built, name, dst_dir_fd=folder)
        os.fsync(folder)


def _prove_and_sync(built: Path) -> None:
    """Side by side: one reads what is in memory while the other waits for the disk."""
    with ExitStack() as stack, refusing_full_disk(str(built)):
        descriptor = os.open(built, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        # Closed after SQLite is done: closing it drops the locks of this process.
        stack.callback(os.close, descriptor)
        pool = stack.enter_context(ThreadPoolExecutor(1, "sync restored"))
        synced = pool.submit(os.fsync, descriptor)
        prove(built)
        synced.result()


def prove(database: Path) -> None:
    """Asks SQLite whether the file is a sound database that can be written to.

    Leaves the bytes as they are. Nobody else may have the file open.
    """
    size = database.stat().st_size
    check = "integrity_check" if size <= FULL_CHECK_BYTES_MAX else "quick_check"
    _remove_sides(database)
    try:
        connection = apsw.Connection(
            str(database.resolve()), flags=apsw.SQLITE_OPEN_READWRITE
        )
        try:
            found = _checked(connection, check)
            if found == "ok":
                _probe_writing(connection)
        finally:
            connection.close()
    except apsw.NotADBError as error:
        raise ServiceError(
            Reason.NOT_A_DATABASE, f"cannot use {database}: it is no SQLite database"
        ) from error
    except apsw.FullError as error:
        raise ServiceError(
            Reason.STORAGE_FULL, f"cannot write {database}: {error}; free some space"
        ) from error
    except apsw.Error as error:
        raise _unsound(database, check, str(error)) from error
    if found != "ok":
        raise _unsound(database, check, found)


def _remove_sides(database: Path) -> None:
    for suffix in SIDE_SUFFIXES:
        database.with_name(database.name + suffix).unlink(missing_ok=True)


def _checked(connection: apsw.Connection, check: str) -> str:
    try:
        row = connection.execute(f"PRAGMA {check}(1)").fetchone()
        return str(row[0]) if row else "nothing"
    except apsw.SQLError:
        # It needs a collation or a function that only its own program has. Its pages
        # are the saved ones and its schema reads: more cannot be known here.
        connection.execute("SELECT count(*) FROM sqlite_schema").fetchall()
        return "ok"


def _probe_writing(connection: apsw.Connection) -> None:
    connection.set_busy_timeout(0)
    connection.execute("BEGIN IMMEDIATE")
    version = connection.pragma("user_version")
    connection.execute(f"PRAGMA user_version = {version}")
    connection.execute("ROLLBACK")


def _unsound(database: Path, check: str, found: str) -> ServiceError:
    return ServiceError(
        Reason.SNAPSHOT_CORRUPT,
        f"cannot use {database}: {check} says {found[:200]!r}; take an older"
        " generation",
        check=check,
    )


def _open_folder(
    stack: ExitStack, root: Path, database: Path, owner: Owner | None
) -> int:
    """The folder that holds the database, walked to from the root through no link."""
    descriptor = os.open(root.resolve(), _FOLDER)
    stack.callback(os.close, descriptor)
    for part in database.parent.relative_to(root).parts:
        with suppress(FileExistsError):
            os.mkdir(part, 0o700, dir_fd=descriptor)
            if owner is not None:
                os.chown(part, *owner, dir_fd=descriptor, follow_symlinks=False)
        try:
            descriptor = os.open(part, _FOLDER, dir_fd=descriptor)
        except NotADirectoryError as error:
            # O_NOFOLLOW with O_DIRECTORY says this of a link as well.
            raise _link(database, part) from error
        stack.callback(os.close, descriptor)
    return descriptor


def _refuse_odd(folder: int, database: Path) -> None:
    """A link or a folder where the database or a file of it belongs."""
    for each in (database.name, *(database.name + s for s in SIDE_SUFFIXES)):
        try:
            mode = os.stat(each, dir_fd=folder, follow_symlinks=False).st_mode
        except FileNotFoundError:
            continue
        if not stat.S_ISREG(mode):
            raise _link(database, each)


def _link(database: Path, part: str) -> ServiceError:
    return ServiceError(
        Reason.FIELD_INVALID,
        f"cannot put a database at {database}: {part} is a link or no plain file;"
        " remove it",
        path=database,
    )


def _refuse_users(folder: int, database: Path) -> None:
    wanted = set()
    for each in (database.name, *(database.name + s for s in SIDE_SUFFIXES)):
        try:
            found = os.stat(each, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            continue
        wanted.add((found.st_dev, found.st_ino))
    user = find_user(wanted) if wanted else None
    if user is not None:
        raise ServiceError(
            Reason.LEASE_HELD,
            f"cannot replace {database}: process {user} has it open; stop it first",
            path=database,
            pid=user,
        )


def find_user(files: set[Identity]) -> int | None:
    """A process that has one of these files open, this one included; None: none that
    we may look into."""
    for process in filter(str.isdigit, os.listdir("/proc")):
        folder = f"/proc/{process}/fd"
        try:
            descriptors = os.listdir(folder)
        except OSError:  # It ended, or belongs to somebody else.
            continue
        if any(_is_one_of(f"{folder}/{each}", files) for each in descriptors):
            return int(process)
    return None


def _is_one_of(path: str, files: set[Identity]) -> bool:
    try:
        found = os.stat(path)
    except OSError:
        return False
    return (found.st_dev, found.st_ino) in files


def _remove(folder: int, name: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=folder)
