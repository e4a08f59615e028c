"""How the process starts, and what it says when it cannot."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.chassis.channels import StaticToken, open_channel
from tests.support.redis_server import ValkeyProcess
from tests.support.snapshot_frames import Client
from tests.support.snapshots_process import SnapshotsProcess, refused_start
from tests.support.tokens import Tokens

pytestmark = [
    pytest.mark.integration,
    pytest.mark.redis,
    pytest.mark.timeout(120),
]


@pytest.fixture
def tokens(tmp_path: Path) -> Tokens:
    return Tokens(tmp_path)


@pytest.fixture
def process(
    tmp_path: Path, valkey: ValkeyProcess, tokens: Tokens
) -> Iterator[SnapshotsProcess]:
    """Not started: a test says how."""
    process = SnapshotsProcess(tmp_path, valkey.url, tokens)
    yield process
    process.kill()


def refused(process: SnapshotsProcess, **environ: str) -> str:
    """What a start with this environment says."""
    said = refused_start({**process.environ, **environ})
    assert "Traceback" not in said
    return said


def mark_of(process: SnapshotsProcess) -> Path:
    return process.blobs / "townkeeper-store.json"


class TestStart:
    async def test_carries_on_where_it_was(
        self, process: SnapshotsProcess, tokens: Tokens
    ) -> None:
        """Stopped by SIGTERM it ends with 0; started again it has everything."""
        token = StaticToken(tokens.container())
        process.start()
        async with open_channel(process.address, token) as channel:
            await Client(channel).upload_file(b"kept")

        assert 0 == process.stop()
        process.start()

        async with open_channel(process.address, token) as channel:
            assert b"kept" == (await Client(channel).download()).data

    def test_marks_a_new_store(self, process: SnapshotsProcess) -> None:
        """An empty folder becomes a store of this environment."""
        process.start(TOWNKEEPER_ENVIRONMENT="staging")

        mark = json.loads(mark_of(process).read_text())

        assert ("staging", 1) == (mark["environment"], mark["layout"])


class TestRefusedStart:
    def test_names_every_bad_variable(self, process: SnapshotsProcess) -> None:
        """One message has all that is wrong, and no value of it."""
        said = refused(
            process,
            TOWNKEEPER_SNAPSHOTS_ADDR="nowhere",
            TOWNKEEPER_REDIS_URL="redis://<host>:6379",
            TOWNKEEPER_BLOB_URL="blobs",
            TOWNKEEPER_REDIS_REPLICAS="two",
            TOWNKEEPER_SNAPSHOT_BYTES_MAX="0",
        )

        for name in ("SNAPSHOTS_ADDR", "REDIS_URL", "BLOB_URL", "REDIS_REPLICAS"):
            assert f"TOWNKEEPER_{name}" in said
        assert "TOWNKEEPER_SNAPSHOT_BYTES_MAX" in said

    def test_another_environment(self, process: SnapshotsProcess) -> None:
        """A store that another environment marked stops the start."""
        process.start(TOWNKEEPER_ENVIRONMENT="production")
        process.stop()

        said = refused(process, TOWNKEEPER_ENVIRONMENT="staging")

        assert "environment 'production', not 'staging'" in said

    def test_a_newer_layout(self, process: SnapshotsProcess) -> None:
        """A store of a later release is left alone."""
        process.start()
        process.stop()
        mark = json.loads(mark_of(process).read_text())
        mark_of(process).write_text(json.dumps({**mark, "layout": 2}))

        assert "upgrade Townkeeper" in refused(process)

    def test_two_on_one_folder(self, process: SnapshotsProcess) -> None:
        """A second process on the folder refuses to start; the first one serves on."""
        process.start()

        said = refused(process, TOWNKEEPER_SNAPSHOTS_ADDR="127.0.0.1:0")

        assert "another process uses it" in said

    def test_a_redis_of_another_store(
        self, process: SnapshotsProcess, tmp_path: Path
    ) -> None:
        """The Redis of another blob store would make this one look deleted."""
        process.start()
        process.stop()

        said = refused(process, TOWNKEEPER_BLOB_URL=(tmp_path / "other-blobs").as_uri())

        assert "the records of another one" in said

    def test_a_taken_port(self, process: SnapshotsProcess, tmp_path: Path) -> None:
        """A port that somebody has is named."""
        process.start()

        said = refused(
            process,
            TOWNKEEPER_BLOB_URL=(tmp_path / "other-blobs").as_uri(),
            TOWNKEEPER_REDIS_URL=f"{process.environ['TOWNKEEPER_REDIS_URL']}?db=1",
        )

        assert f"cannot listen on {process.address}" in said

    def test_no_keys(self, process: SnapshotsProcess, tmp_path: Path) -> None:
        """Without keys nobody could be believed."""
        said = refused(process, TOWNKEEPER_KEYS_DIR=str(tmp_path / "none"))

        assert "cannot" in said

    def test_a_folder_that_cannot_be_written_to(
        self, process: SnapshotsProcess, tmp_path: Path
    ) -> None:
        """A path that is no folder is named."""
        (tmp_path / "file").touch()

        said = refused(
            process, TOWNKEEPER_BLOB_URL=(tmp_path / "file" / "blobs").as_uri()
        )

        assert "TOWNKEEPER_BLOB_URL" in said
