"""Disk work off the event loop, and its faults as the errors callers understand."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import ParamSpec, TypeVar

from services.chassis.errors import Reason, ServiceError
from services.segments.disk import refusing_full_disk, sync_folder

P = ParamSpec("P")
T = TypeVar("T")


@contextmanager
def disk_errors(what: str) -> Iterator[None]:
    """A full disk becomes STORAGE_FULL, all else STORE_UNAVAILABLE."""
    try:
        with refusing_full_disk(what):
            yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ServiceError(
            Reason.STORE_UNAVAILABLE,
            f"cannot reach {what}: {error.strerror or error}; see to the disk, "
            "then try again",
            errno=error.errno,
        ) from error


async def in_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Runs blocking work in a thread, to its end.

    A thread cannot be cancelled: whoever went on would meet it at work on the files.
    """
    return await to_the_end(asyncio.to_thread(work, *args, **kwargs))


async def to_the_end(work: Awaitable[T]) -> T:
    """Waits until the work is done, also when cut off meanwhile, however often."""
    job = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(job)
    except asyncio.CancelledError:
        while not job.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait({job})
        if not job.cancelled():
            job.exception()
        raise


@contextmanager
def nameless_file(path: Path) -> Iterator[int]:
    """A new file for as long as the context lasts; its name is gone at once."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o600)
    try:
        path.unlink()
        yield descriptor
    finally:
        os.close(descriptor)


def synced_or_gone(descriptor: int, path: Path) -> None:
    """Makes the bytes durable, or removes the file: after a failed sync the kernel may
    count them as written, and the next sync would vouch for what was never stored."""
    try:
        os.fsync(descriptor)
    except OSError:
        path.unlink(missing_ok=True)
        raise


def sync_file(path: Path) -> None:
    """The same for whoever has no descriptor of it."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        synced_or_gone(descriptor, path)
    finally:
        os.close(descriptor)


def make_folder(path: Path) -> None:
    """Makes the folder and whatever is missing above it, each durably."""
    if path.is_dir():
        return
    make_folder(path.parent)
    path.mkdir(exist_ok=True)
    sync_folder(path.parent)
