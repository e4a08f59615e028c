"""Work in threads is always waited for, and faults of disks have their names."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from pathlib import Path

import pytest

from services.chassis.errors import Reason, ServiceError
from services.snapshots.disk_work import disk_errors, in_thread, make_folder


async def test_a_cut_call_waits_for_its_thread() -> None:
    """Nobody meets a thread still at work on files that were let go."""
    began, go_on = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()
    done = []

    def work() -> None:
        loop.call_soon_threadsafe(began.set)
        go_on.wait(5)
        done.append(True)

    task = asyncio.create_task(in_thread(work))
    await began.wait()
    task.cancel()
    await asyncio.sleep(0)
    assert not task.done()
    go_on.set()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert [True] == done


async def test_a_cut_call_forgets_how_its_work_failed() -> None:
    """The failure of work that nobody waits for any more is not reported later."""
    began, go_on = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def work() -> None:
        loop.call_soon_threadsafe(began.set)
        go_on.wait(5)
        raise ValueError("too late")

    task = asyncio.create_task(in_thread(work))
    await began.wait()
    task.cancel()
    go_on.set()

    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.ENOSPC, Reason.STORAGE_FULL),
        (errno.EDQUOT, Reason.STORAGE_FULL),
        (errno.EIO, Reason.STORE_UNAVAILABLE),
        (errno.EACCES, Reason.STORE_UNAVAILABLE),
        (errno.EMFILE, Reason.STORE_UNAVAILABLE),
    ],
)
def test_faults_have_reasons(number: int, reason: Reason) -> None:
    """A caller is told whether to make room or to wait."""
    with pytest.raises(ServiceError) as refused, disk_errors("the disk"):
        raise OSError(number, os.strerror(number))

    assert reason is refused.value.reason


def test_what_is_not_there_is_no_fault() -> None:
    """Whoever asks for a file decides what its absence means."""
    with pytest.raises(FileNotFoundError), disk_errors("the disk"):
        raise FileNotFoundError


def test_folders_are_made_to_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each new folder's name is synced into the one above, and old ones are not."""
    synced = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)

    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")

    assert [str(tmp_path), str(tmp_path / "a")] == synced


async def test_a_thread_is_waited_for_however_often_its_caller_is_cut_off() -> None:
    """Whoever goes on would meet it at work on the files."""
    go_on, begun, done = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        go_on.wait(10)
        done.set()

    task = asyncio.create_task(in_thread(work))
    await asyncio.to_thread(begun.wait, 10)
    for _ in range(3):
        task.cancel()
        await asyncio.wait({task}, timeout=0.01)
    assert not task.done()

    go_on.set()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert done.is_set()
