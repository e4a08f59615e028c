"""Paths that a request names, kept below the folder they belong to.

A path is looked at again at each use: what was a folder may have become a link since.
"""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path, PurePosixPath

from services.chassis.errors import Reason, ServiceError

PATH_LENGTH_MAX = 1024


def beneath(root: Path, relative: str, what: str) -> Path:
    """The absolute path of `relative` below `root`, which itself is trusted.

    It need not exist. Refuses, with FIELD_INVALID and `what` in the text, absolute
    paths, `..`, and any link or special file on the way, the last part included.
    """
    parts = PurePosixPath(relative).parts
    odd = not parts or ".." in parts or "\0" in relative
    if odd or relative.startswith("/") or len(relative) > PATH_LENGTH_MAX:
        raise ServiceError(
            Reason.FIELD_INVALID,
            f"cannot use {what} {relative[:80]!r}: give a path below {root} without ..",
            field=what,
        )
    path = root
    for number, part in enumerate(parts, 1):
        path = path / part
        _refuse_links(path, what, last=number == len(parts))
    return path


def empty_folder(folder: Path) -> None:
    """Makes the folder, private and with nothing in it; follows no link in it."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for entry in os.scandir(folder):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        else:
            os.unlink(entry.path)


def _refuse_links(path: Path, what: str, last: bool) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise ServiceError(
            Reason.FIELD_INVALID,
            f"cannot use {what}: {path} cannot be looked at ({error.strerror})",
            field=what,
        ) from error
    if not (stat.S_ISDIR(mode) or (last and stat.S_ISREG(mode))):
        raise ServiceError(
            Reason.FIELD_INVALID,
            f"cannot use {what}: {path} is a link or no plain file; remove it",
            field=what,
        )
