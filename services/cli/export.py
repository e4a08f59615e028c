"""A snapshot as a file: streamed, verified, and there only when it is whole."""

from __future__ import annotations

import os
import tempfile
import zlib
from collections.abc import Iterable
from pathlib import Path

from blake3 import blake3

from services.cli.problems import Problem
from townkeeper.snapshots.v1.snapshots_pb2 import DownloadSnapshotResponse


def write_file(
    frames: Iterable[DownloadSnapshotResponse], target: Path, *, force: bool
) -> int:
    """Writes the stream's bytes to `target`; returns how many.

    Raises a Problem and leaves `target` as it was when anything is wrong.
    """
    if target.exists() and not force:
        raise _exists(target)
    try:
        descriptor, aside = tempfile.mkstemp(
            prefix=f".{target.name}.", dir=target.absolute().parent
        )
        try:
            with os.fdopen(descriptor, "wb") as file:
                size_bytes = _copy(frames, file.write)
                file.flush()
                os.fsync(file.fileno())
            _put_in_place(Path(aside), target, force=force)
        finally:
            Path(aside).unlink(missing_ok=True)
    except OSError as error:
        raise Problem(
            f"cannot write {target}: {error.strerror}; choose another file"
        ) from error
    return size_bytes


def _put_in_place(aside: Path, target: Path, *, force: bool) -> None:
    if force:
        aside.replace(target)
    else:
        try:
            # A link, not a rename: it never takes the place of another file.
            os.link(aside, target)
        except FileExistsError:
            raise _exists(target) from None
    folder = os.open(target.absolute().parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _copy(frames: Iterable[DownloadSnapshotResponse], write: object) -> int:
    assert callable(write), "a file's method"
    digest, position, whole = blake3(), 0, False
    for frame in frames:
        kind = frame.WhichOneof("frame")
        if kind == "chunk":
            data = frame.chunk.data
            if frame.chunk.offset != position or zlib.crc32(data) != frame.chunk.crc32:
                raise _damaged()
            digest.update(data)
            write(data)
            position += len(data)
        elif kind == "trailer":
            if (position, digest.digest()) != (
                frame.trailer.size_bytes,
                frame.trailer.blake3,
            ):
                raise _damaged()
            whole = True
    if not whole:
        raise _damaged()
    return position


def _damaged() -> Problem:
    return Problem("cannot export: the bytes were damaged on their way; try again")


def _exists(target: Path) -> Problem:
    return Problem(f"cannot overwrite {target}: choose another file, or give --force")
