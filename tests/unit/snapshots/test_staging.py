"""Bytes of uploads on disk: whose they are, how far they go, when they are closed."""

from __future__ import annotations

import errno
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

from services.chassis.errors import Reason, ServiceError
from services.snapshots import staged_file as module
from services.snapshots.file_staging import FileStaging
from services.snapshots.generations import Claim, Origin
from services.snapshots.upload import Body, Chunk, Header, State, Upload
from tests.support.clock import ManualClock
from tests.support.snapshot_values import NAME

ID = "01234567-89ab-4cde-8f01-23456789abcd"
LIMIT = 1 << 30


def header(write_offset: int = 0) -> Header:
    return Header(NAME, Body.SEGMENT, Origin(ID), Claim(), write_offset)


def chunk(offset: int, data: bytes) -> Chunk:
    return Chunk(offset, data, zlib.crc32(data))


@pytest.fixture
def reopen(tmp_path: Path) -> Callable[[], FileStaging]:
    """What a process finds that starts now."""
    return lambda: FileStaging(tmp_path, ManualClock())


@pytest.fixture
def staging(reopen: Callable[[], FileStaging]) -> FileStaging:
    return reopen()


async def stage(staging: FileStaging, *parts: bytes, offset: int = 0) -> bytes:
    """Appends the parts; the digest of all that is there."""
    upload = Upload(LIMIT)
    async with staging.opened(header(offset)) as staged:
        upload.begin(header(offset), staged.size_bytes)
        for part in parts:
            await staged.take(upload, chunk(upload.size_bytes, part))
        return staged.digest.digest()


async def test_grows_over_streams_and_restarts(
    reopen: Callable[[], FileStaging],
) -> None:
    """The digest covers all bytes, whichever stream or process took them."""
    await stage(reopen(), b"ab", b"c")

    digest = await stage(reopen(), b"de", offset=3)

    found = await reopen().find(NAME, ID)
    assert blake3(b"abcde").digest() == digest
    assert found is not None
    assert 5 == found.persisted_bytes


async def test_a_commit_that_was_cut_closes_it(
    staging: FileStaging, tmp_path: Path
) -> None:
    """Bytes that a blob shares are never written to: no more can be added, and the
    blob stays as it is."""
    await stage(staging, b"abc")
    [path] = tmp_path.rglob("*.segment")
    blob = tmp_path / "blob"
    os.link(path, blob)
    upload = Upload(LIMIT)

    with pytest.raises(ServiceError) as refused:
        await add_to(staging, upload)

    assert Reason.DIGEST_MISMATCH is refused.value.reason
    assert State.DISCARDED is upload.state
    assert b"abc" == blob.read_bytes()


async def add_to(staging: FileStaging, upload: Upload) -> None:
    async with staging.opened(header(3)) as staged:
        upload.begin(header(3), staged.size_bytes)
        await staged.take(upload, chunk(3, b"d"))


async def test_a_full_disk_leaves_what_was_there(
    staging: FileStaging, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a chunk that still fitted is taken back."""

    def half(descriptor: int, data: bytes, offset: int) -> None:
        os.pwrite(descriptor, data[: len(data) // 2], offset)
        raise OSError(errno.ENOSPC, "full")

    await stage(staging, b"abc")
    monkeypatch.setattr(module, "write_all", half)

    with pytest.raises(ServiceError) as refused:
        await stage(staging, b"defg", offset=3)

    [path] = tmp_path.rglob("*.segment")
    assert Reason.STORAGE_FULL is refused.value.reason
    assert b"abc" == path.read_bytes()


async def test_a_failing_disk_leaves_the_upload_free(
    staging: FileStaging, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An upload that could not be opened or synced is not busy for ever."""

    def fail(*_: Any) -> None:
        raise OSError(errno.EIO, "broken")

    for call in ("open", "fsync"):
        with monkeypatch.context() as patch:
            patch.setattr(os, call, fail)
            with pytest.raises(ServiceError) as refused:
                await stage(staging, b"")
        assert Reason.STORE_UNAVAILABLE is refused.value.reason

    await stage(staging, b"abc")


async def test_links_are_not_followed(staging: FileStaging, tmp_path: Path) -> None:
    """A link where an upload should be is refused, not written through."""
    await stage(staging, b"abc")
    [path] = tmp_path.rglob("*.segment")
    path.unlink()
    victim = tmp_path / "victim"
    victim.write_bytes(b"kept")
    path.symlink_to(victim)

    with pytest.raises(ServiceError):
        await stage(staging, b"x")

    assert b"kept" == victim.read_bytes()
