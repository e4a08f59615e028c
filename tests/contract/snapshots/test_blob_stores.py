"""The promises of a BlobStore over the fake and over files, and those of files."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

import pytest

from services.chassis.errors import Reason, ServiceError
from services.snapshots import file_blobs
from services.snapshots.file_blobs import FileBlobs
from services.snapshots.store_mark import LAYOUT, MARK
from tests.contract.snapshots.blob_suite import KEY, BlobStoreSuite
from tests.fakes.blob_store import MemoryBlobs

ENVIRONMENT = "tests"


class TestMemoryBlobs(BlobStoreSuite):
    @pytest.fixture
    def store(self, tmp_path: Path) -> MemoryBlobs:
        return MemoryBlobs(tmp_path)


class TestFileBlobs(BlobStoreSuite):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[FileBlobs]:
        store = FileBlobs.open(tmp_path / "blobs", ENVIRONMENT)
        yield store
        store.close()

    @pytest.mark.parametrize(
        ("number", "reason"),
        [
            (errno.ENOSPC, Reason.STORAGE_FULL),
            (errno.EDQUOT, Reason.STORAGE_FULL),
            (errno.EIO, Reason.STORE_UNAVAILABLE),
            (errno.EROFS, Reason.STORE_UNAVAILABLE),
        ],
    )
    @pytest.mark.parametrize("call", ["write", "fsync", "link"])
    async def test_a_failing_disk(
        self,
        store: FileBlobs,
        source: Path,
        monkeypatch: pytest.MonkeyPatch,
        call: str,
        number: int,
        reason: Reason,
    ) -> None:
        """A fault of the disk is told from a full one, and leaves no blob behind."""

        def fail(*_: Any, **__: Any) -> None:
            raise OSError(number, os.strerror(number))

        if call == "write":
            monkeypatch.setattr(file_blobs, "_write_synced", fail)
        else:
            monkeypatch.setattr(os, call, fail)

        with pytest.raises(ServiceError) as created:
            await store.create(KEY, b"data")
        monkeypatch.undo()

        assert reason is created.value.reason
        assert [] == await store.list("towns/t/segments/ab")
        assert [] == list(store.scratch.iterdir())

    @pytest.mark.parametrize("method", ["create", "publish"])
    async def test_synced_before_and_after_it_is_named(
        self,
        store: FileBlobs,
        source: Path,
        monkeypatch: pytest.MonkeyPatch,
        method: str,
    ) -> None:
        """Bytes are on disk before a name leads to them, and so is the name before
        anybody is told: a power cut leaves all of a blob or nothing."""
        await store.create(f"{KEY}-before", b"so that the folder exists")
        folder = store.staging.parent / KEY.rpartition("/")[0]
        steps: list[str] = []
        fsync, link = os.fsync, os.link

        def syncing(descriptor: int) -> None:
            path = os.readlink(f"/proc/self/fd/{descriptor}")
            steps.append("sync folder" if path == str(folder) else "sync bytes")
            fsync(descriptor)

        def linking(*args: Any) -> None:
            steps.append("link")
            link(*args)

        monkeypatch.setattr(os, "fsync", syncing)
        monkeypatch.setattr(os, "link", linking)

        if method == "create":
            await store.create(KEY, b"data")
        else:
            await store.publish(KEY, source)

        assert ["sync bytes", "link", "sync folder"] == steps

    @pytest.mark.parametrize(
        ("found", "reason"),
        [
            ({"f_bavail": 1}, Reason.STORAGE_FULL),
            ({"f_flag": os.ST_RDONLY}, Reason.STORE_UNAVAILABLE),
        ],
    )
    async def test_the_check_sees_a_sick_disk(
        self,
        store: FileBlobs,
        monkeypatch: pytest.MonkeyPatch,
        found: dict[str, int],
        reason: Reason,
    ) -> None:
        """A disk without room, or turned read-only, is known before a write fails."""
        good = {"f_bavail": 1 << 20, "f_frsize": 4096, "f_flag": 0}
        sick = SimpleNamespace(**{**good, **found})
        monkeypatch.setattr(os, "statvfs", lambda path: sick)

        with pytest.raises(ServiceError) as refused:
            await store.check()

        assert reason is refused.value.reason

    async def test_a_missing_mark_fails_the_check(
        self, store: FileBlobs, tmp_path: Path
    ) -> None:
        """A folder that is not mounted any more is no empty store."""
        (tmp_path / "blobs" / MARK).unlink()

        with pytest.raises(ServiceError) as refused:
            await store.check()

        assert Reason.STORE_UNAVAILABLE is refused.value.reason

    async def test_a_bad_sector(
        self, store: FileBlobs, source: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Bytes that the disk does not give any more are missing in what is read anew,
        so whoever asks for their digest sees it; the disk as such is well."""
        await store.publish(KEY, source)

        def fail(file: BinaryIO, size: int) -> bytes:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        monkeypatch.setattr(file_blobs, "read_part", fail)

        assert [] == [part async for part in store.stored(KEY)]

    async def test_survives_reopening(self, store: FileBlobs, tmp_path: Path) -> None:
        """Blobs outlive the process; scratch files do not."""
        await store.create(KEY, b"kept")
        store.scratch_path().write_bytes(b"lost")
        store.close()

        again = FileBlobs.open(tmp_path / "blobs", ENVIRONMENT)

        assert b"kept" == await again.read(KEY)
        assert store.store_id == again.store_id
        assert [] == list(again.scratch.iterdir())


class TestOpening:
    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        """A folder that was a store once."""
        FileBlobs.open(tmp_path, ENVIRONMENT).close()
        return tmp_path

    def refused(self, root: Path, environment: str = ENVIRONMENT) -> str:
        with pytest.raises(ServiceError) as refused:
            FileBlobs.open(root, environment)
        assert Reason.STORE_FOREIGN is refused.value.reason
        return refused.value.message

    def test_one_process_at_a_time(self, root: Path) -> None:
        """A second process on the folder is refused until the first has ended."""
        first = FileBlobs.open(root, ENVIRONMENT)

        assert "another process uses it" in self.refused(root)

        first.close()
        FileBlobs.open(root, ENVIRONMENT).close()

    def test_another_environment(self, root: Path) -> None:
        """A store of another environment is never written to."""
        assert "environment 'tests', not 'production'" in self.refused(
            root, "production"
        )

    def test_a_newer_layout(self, root: Path) -> None:
        """A store that a later release wrote is left alone."""
        mark = json.loads((root / MARK).read_text())
        (root / MARK).write_text(json.dumps({**mark, "layout": LAYOUT + 1}))

        assert "upgrade Townkeeper" in self.refused(root)

    @pytest.mark.parametrize("text", ["", "{}", "[]", "no JSON", '{"layout": "x"}'])
    def test_an_unreadable_mark(self, root: Path, text: str) -> None:
        """A store whose mark is damaged is not guessed at."""
        (root / MARK).write_text(text)

        assert "cannot be read" in self.refused(root)

    def test_a_folder_of_something_else(self, tmp_path: Path) -> None:
        """A folder with other things in it is not taken over."""
        (tmp_path / "photos").mkdir()

        assert "give an empty folder" in self.refused(tmp_path)
        assert ["lock", "photos"] == sorted(os.listdir(tmp_path))

    def test_a_start_that_was_cut_off(self, tmp_path: Path) -> None:
        """A process that died while it made the store does not spoil the folder."""
        (tmp_path / "lock").touch()
        (tmp_path / f"{MARK}.new").write_text("{")

        FileBlobs.open(tmp_path, ENVIRONMENT).close()

    def test_a_folder_that_cannot_be_made(self, tmp_path: Path) -> None:
        """A path below a file is no folder, and says so."""
        (tmp_path / "file").touch()

        with pytest.raises(ServiceError) as refused:
            FileBlobs.open(tmp_path / "file" / "blobs", ENVIRONMENT)

        assert Reason.STORE_UNAVAILABLE is refused.value.reason
