"""A folder of this process alone, for what may be lost with it.

Several processes may have theirs below one parent: each locks its own, and whoever
starts removes those that nobody locks any more.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import uuid
from itertools import count
from pathlib import Path
from typing import Final, Self

from services.snapshots.disk_work import disk_errors

_NAME: Final = "townkeeper-snapshots-"
_LOCK: Final = ".lock"


class LocalDisk:
    """The folder, and names in it that nobody else uses."""

    def __init__(self, folder: Path, lock: int) -> None:
        self.folder = folder
        self._lock = lock
        self._numbers = count()

    @classmethod
    def open(cls, parent: Path) -> Self:
        with disk_errors(f"the folder {parent}"):
            parent.mkdir(parents=True, exist_ok=True)
            for path in parent.glob(f"{_NAME}*{_LOCK}"):
                _remove_if_left(path)
            folder = parent / f"{_NAME}{uuid.uuid4()}"
            lock = _locked(_lock_of(folder))
            # A name of 122 random bits is nobody else's.
            assert lock is not None
            folder.mkdir()
        return cls(folder, lock)

    def path(self) -> Path:
        """For one scratch file."""
        return self.folder / f"{next(self._numbers)}"

    def close(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        _lock_of(self.folder).unlink(missing_ok=True)
        os.close(self._lock)


def _remove_if_left(path: Path) -> None:
    lock = _locked(path)
    if lock is None:
        return
    try:
        shutil.rmtree(path.with_name(path.name.removesuffix(_LOCK)), ignore_errors=True)
        path.unlink(missing_ok=True)
    finally:
        os.close(lock)


def _locked(path: Path) -> int | None:
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _lock_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}{_LOCK}")
