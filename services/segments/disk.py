"""Files that must survive a crash, and disks that are full."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from services.chassis.errors import Reason, ServiceError

_FULL: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def refusing_full_disk(what: str) -> Iterator[None]:
    """Turns a full disk into STORAGE_FULL; every other fault stays what it is."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise ServiceError(
            Reason.STORAGE_FULL,
            f"cannot write {what}: {os.strerror(error.errno)}; free some space",
            path=error.filename,
        ) from error


def sync_folder(path: Path) -> None:
    """Makes names in this folder durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_all(descriptor: int, data: bytes | memoryview, offset: int) -> None:
    """`pwrite` until all is written; the kernel may take less at once."""
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        offset += written
        view = view[written:]


def read_all(descriptor: int, size: int, offset: int) -> bytes:
    """`pread` until `size` bytes or the end of the file."""
    data = os.pread(descriptor, size, offset)
    while len(data) < size:
        more = os.pread(descriptor, size - len(data), offset + len(data))
        if not more:
            break
        data += more
    return data
