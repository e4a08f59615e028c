"""Blobs as files in one folder, which belongs to one process at a time.

A blob comes into being complete: synced under another name, then linked, then its
folder is synced. The folder carries a mark that says whose it is.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from itertools import count
from pathlib import Path
from typing import BinaryIO, Final, Self

from services.chassis.errors import Reason, ServiceError
from services.segments.disk import sync_folder
from services.snapshots.disk_work import (
    disk_errors,
    in_thread,
    make_folder,
    sync_file,
)
from services.snapshots.store import BlobMissing
from services.snapshots.store_mark import MARK, foreign, new_mark, store_id, strangers

_LOCK: Final = "lock"
_STAGING: Final = "staging"
_SCRATCH: Final = "scratch"
_WHAT: Final = "the blob store"
# Below this no upload of any size can be relied on to fit.
_ROOM_BYTES_MIN: Final = 16 << 20
_PART_BYTES: Final = 1 << 20


class FileBlobs:
    """A BlobStore; also gives the folders for uploads and for scratch files."""

    def __init__(self, root: Path, store_id: str, lock: int) -> None:
        self.store_id = store_id
        self._root = root
        self._lock = lock
        self._numbers = count()
        # No other process has the folder, so this makes a comparison hold.
        self._swapping = threading.Lock()
        self.staging = root / _STAGING
        self.scratch = root / _SCRATCH

    @classmethod
    def open(cls, root: Path, environment: str) -> Self:
        """Takes the folder over. Raises STORE_FOREIGN if it is not ours to take."""
        with disk_errors(f"the blob store {root}"):
            make_folder(root)
            lock = _locked(root)
            try:
                marked = _marked(root, environment)
                # Scratch files are nobody's once their process is gone.
                shutil.rmtree(root / _SCRATCH, ignore_errors=True)
                for folder in (_STAGING, _SCRATCH):
                    make_folder(root / folder)
            except BaseException:
                os.close(lock)
                raise
        return cls(root, marked, lock)

    def close(self) -> None:
        """Lets another process take the folder."""
        os.close(self._lock)

    def scratch_path(self) -> Path:
        """A name for a scratch file that nobody else uses."""
        return self.scratch / f"{next(self._numbers)}"

    async def create(self, key: str, data: bytes) -> bool:
        return await in_thread(self._create, self._path(key), data)

    async def swap(self, key: str, old: bytes, new: bytes) -> bool:
        return await in_thread(self._swap, self._path(key), old, new)

    async def publish(self, key: str, path: Path) -> None:
        await in_thread(self._publish, self._path(key), path)

    async def read(self, key: str) -> bytes:
        try:
            with disk_errors(_WHAT):
                return await in_thread(self._path(key).read_bytes)
        except FileNotFoundError as error:
            raise BlobMissing(key) from error

    @asynccontextmanager
    async def local(self, key: str) -> AsyncIterator[Path]:
        path = self._path(key)
        # Seventeen of these make a chain: one look costs less than a thread's turn.
        if not path.is_file():
            raise BlobMissing(key)
        yield path

    async def stored(self, key: str) -> AsyncIterator[bytes]:
        with disk_errors(_WHAT):
            try:
                file = await in_thread(self._path(key).open, "rb", 0)
            except FileNotFoundError as error:
                raise BlobMissing(key) from error
        with file:
            # What the disk has, not what memory still has of it.
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            while part := await in_thread(_next_part, file):
                yield part

    async def delete(self, key: str) -> None:
        with disk_errors(_WHAT):
            await in_thread(self._path(key).unlink, missing_ok=True)

    async def list(self, folder: str) -> list[str]:
        with disk_errors(_WHAT):
            try:
                return sorted(await in_thread(os.listdir, self._path(folder)))
            except (FileNotFoundError, NotADirectoryError):
                return []

    async def check(self) -> None:
        with disk_errors(_WHAT):
            await in_thread(self._probe)

    def _path(self, key: str) -> Path:
        return self._root / key

    def _create(self, path: Path, data: bytes) -> bool:
        beside = self.scratch_path()
        with disk_errors(_WHAT):
            try:
                _write_synced(beside, data)
                return _linked(beside, path)
            finally:
                beside.unlink(missing_ok=True)

    def _swap(self, path: Path, old: bytes, new: bytes) -> bool:
        beside = self.scratch_path()
        with disk_errors(_WHAT), self._swapping:
            try:
                if path.read_bytes() != old:
                    return False
                _write_synced(beside, new)
                os.replace(beside, path)
            except FileNotFoundError:
                return False
            finally:
                beside.unlink(missing_ok=True)
            sync_folder(path.parent)
            return True

    def _publish(self, path: Path, source: Path) -> None:
        with disk_errors(_WHAT):
            sync_file(source)
            if _linked(source, path):
                return
            # The name is a digest, so both are equal, unless the old one has rotted.
            beside = self.scratch_path()
            os.link(source, beside)
            try:
                os.replace(beside, path)
            finally:
                beside.unlink(missing_ok=True)
            sync_folder(path.parent)

    def _probe(self) -> None:
        if not self._path(MARK).is_file():
            raise ServiceError(
                Reason.STORE_UNAVAILABLE,
                f"cannot use the blob store {self._root}: its {MARK} is gone; mount it "
                "or restore it",
            )
        # Writing something would tell more, and keep an idle disk awake for ever.
        found = os.statvfs(self._root)
        if found.f_flag & os.ST_RDONLY:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        if found.f_bavail * found.f_frsize < _ROOM_BYTES_MIN:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _next_part(file: BinaryIO) -> bytes:
    """Nothing at the end, and where the disk does not give the bytes any more."""
    with disk_errors(_WHAT):
        try:
            return read_part(file, _PART_BYTES)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            return b""


def read_part(file: BinaryIO, size_bytes: int) -> bytes:
    return file.read(size_bytes)


def _linked(source: Path, path: Path) -> bool:
    """Gives the file a second name, durably, unless that name is taken."""
    make_folder(path.parent)
    try:
        os.link(source, path)
    except FileExistsError:
        return False
    sync_folder(path.parent)
    return True


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _locked(root: Path) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(root / _LOCK, flags, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise foreign(
            root, "another process uses it; end that one, or give this one a folder"
        ) from None
    return descriptor


def _marked(root: Path, environment: str) -> str:
    """The id of the store, which is made for an empty folder."""
    try:
        text = (root / MARK).read_bytes()
    except FileNotFoundError:
        text = _make_mark(root, environment)
    return store_id(root, text, environment)


def _make_mark(root: Path, environment: str) -> bytes:
    """Marks an empty folder; one that holds other things is not for us."""
    others = sorted(set(os.listdir(root)) - {_LOCK, _STAGING, _SCRATCH})
    if others and not others[0].startswith(f"{MARK}."):
        raise strangers(root, others[0], "folder")
    mark = new_mark(environment)
    beside = root / f"{MARK}.new"
    with suppress(FileNotFoundError):
        beside.unlink()
    _write_synced(beside, mark)
    os.replace(beside, root / MARK)
    sync_folder(root)
    return mark
