"""Several snapshot services, as processes, over one S3 and one Redis."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from services.chassis.channels import StaticToken, open_channel
from services.chassis.errors import Reason, ServiceError, rpc_errors
from services.snapshots.shared_staging import PART_BYTES
from tests.support.redis_server import ValkeyProcess
from tests.support.s3_server import S3Process
from tests.support.snapshot_frames import (
    Client,
    Frame,
    chunks,
    file_header,
    trailer,
)
from tests.support.snapshots_process import SnapshotsProcess, refused_start
from tests.support.tokens import Tokens
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.integration,
    pytest.mark.redis,
    pytest.mark.s3,
    pytest.mark.timeout(180),
]


class Fleet:
    """Replicas that share everything but their local disk."""

    def __init__(
        self, folder: Path, valkey: ValkeyProcess, s3: S3Process, tokens: Tokens
    ) -> None:
        self.url = s3.new_url()
        self.token = StaticToken(tokens.container())
        self._folder, self._valkey, self._s3, self._tokens = folder, valkey, s3, tokens
        self.replicas: list[SnapshotsProcess] = []

    def replica(self) -> SnapshotsProcess:
        """One more, not started."""
        folder = self._folder / f"replica-{len(self.replicas)}"
        environ = {
            **self._s3.environ,
            "TOWNKEEPER_BLOB_URL": self.url,
            "TOWNKEEPER_CACHE_DIR": str(folder / "cache"),
        }
        one = SnapshotsProcess(folder, self._valkey.url, self._tokens, **environ)
        self.replicas.append(one)
        return one

    def started(self) -> SnapshotsProcess:
        one = self.replica()
        one.start()
        return one


@pytest.fixture
def tokens(tmp_path: Path) -> Tokens:
    return Tokens(tmp_path)


@pytest.fixture
def fleet(
    tmp_path: Path, valkey: ValkeyProcess, s3: S3Process, tokens: Tokens
) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path, valkey, s3, tokens)
    yield fleet
    for one in fleet.replicas:
        one.kill()


def local_files(process: SnapshotsProcess) -> list[Path]:
    """What lies on the local disk of a replica."""
    folder = Path(process.environ["TOWNKEEPER_CACHE_DIR"])
    return [path for path in folder.rglob("*") if path.is_file()]


class TestLife:
    async def test_what_one_commits_all_have(self, fleet: Fleet) -> None:
        """A generation that one replica answered is read, listed and deleted at any
        other, byte by byte."""
        first, second = fleet.started(), fleet.started()
        data = os.urandom(3 << 20)
        async with (
            open_channel(first.address, fleet.token) as one,
            open_channel(second.address, fleet.token) as other,
        ):
            await Client(one).upload_file(b"first")
            await Client(other).upload_file(data)

            assert data == (await Client(one).download()).data
            assert b"first" == (await Client(other).download(1)).data
            assert 2 == len((await Client(one).list()).snapshots)

            assert 1 == await Client(other).delete(1)
            with pytest.raises(ServiceError) as gone, rpc_errors():
                await Client(one).download(1)
            assert Reason.SNAPSHOT_NOT_FOUND is gone.value.reason

    async def test_an_owner_moves_between_replicas(self, fleet: Fleet) -> None:
        """An owner that claimed at one replica is fenced at every other."""
        first, second = fleet.started(), fleet.started()
        async with (
            open_channel(first.address, fleet.token) as one,
            open_channel(second.address, fleet.token) as other,
        ):
            await Client(one).advance(epoch=1)
            await Client(other).advance(epoch=2)

            with pytest.raises(ServiceError) as fenced, rpc_errors():
                await Client(one).advance(epoch=1)

        assert Reason.LEASE_FENCED is fenced.value.reason

    async def test_a_restart_has_everything(self, fleet: Fleet) -> None:
        """The local disk of a replica may be lost at any time."""
        one = fleet.started()
        async with open_channel(one.address, fleet.token) as channel:
            await Client(channel).upload_file(b"kept")
        one.kill()

        one.start()

        async with open_channel(one.address, fleet.token) as channel:
            assert b"kept" == (await Client(channel).download()).data
        assert 0 == one.stop()
        assert [] == local_files(one)

    async def test_redis_is_replaceable(
        self, fleet: Fleet, valkey: ValkeyProcess
    ) -> None:
        """A Redis that comes back empty is filled from the records in S3 by the next
        start, whoever else runs."""
        first = fleet.started()
        async with open_channel(first.address, fleet.token) as channel:
            await Client(channel).upload_file(b"one")
            await Client(channel).upload_file(b"two")
            valkey.flush()

            second = fleet.started()

            assert b"two" == (await Client(channel).download()).data
        async with open_channel(second.address, fleet.token) as channel:
            assert b"one" == (await Client(channel).download(1)).data


class TestResuming:
    DATA = os.urandom(PART_BYTES + (3 << 20))

    async def cut(self, client: Client, name: str, size: int) -> None:
        """A stream that ends without a trailer."""
        frames = [file_header(upload_id=name), *chunks(self.DATA[:size])]
        sent = await client.send(frames)
        assert size == sent.upload.persisted_size_bytes

    def rest(self, name: str, start: int) -> list[Frame]:
        return [
            file_header(upload_id=name, write_offset=start),
            *chunks(self.DATA, start),
            trailer(self.DATA),
        ]

    async def test_at_another_replica(self, fleet: Fleet) -> None:
        """An upload that was cut off at one replica is finished at another, and what
        was sent is not sent again."""
        first, second = fleet.started(), fleet.started()
        name = str(uuid.uuid4())
        async with open_channel(first.address, fleet.token) as channel:
            await self.cut(Client(channel), name, 1_000_000)
        first.kill()

        async with open_channel(second.address, fleet.token) as channel:
            client = Client(channel)
            assert 1_000_000 == await client.persisted(name)
            await client.send(self.rest(name, 1_000_000))

            assert self.DATA == (await client.download()).data

    async def test_after_a_kill_in_mid_stream(self, fleet: Fleet) -> None:
        """A replica that is killed while bytes come in loses less than a part; the
        rest goes on at another one, once the dead one's hold is over."""
        first, second = fleet.started(), fleet.started()
        name = str(uuid.uuid4())
        async with open_channel(second.address, fleet.token) as other:
            client = Client(other)
            async with open_channel(first.address, fleet.token) as channel:
                stream = Client(channel).stub.UploadSnapshot()
                await stream.write(file_header(upload_id=name))
                for frame in chunks(self.DATA):
                    await stream.write(frame)
                await wait_until(
                    lambda: persisted(client, name), what="a part", limit_s=60
                )
                first.kill()
                stream.cancel()
            start = await persisted(client, name)
            assert PART_BYTES <= start < len(self.DATA)

            async def finished() -> bool:
                with rpc_errors():
                    try:
                        await client.send(self.rest(name, start))
                    except Exception as error:
                        if "another stream has it" not in str(error):
                            raise
                        return False
                return True

            await wait_until(finished, what="the hold ends", limit_s=60)

            assert self.DATA == (await client.download()).data


async def persisted(client: Client, name: str) -> int:
    """How far an upload got, 0 if nobody knows it."""
    try:
        with rpc_errors():
            return await client.persisted(name)
    except ServiceError:
        return 0


class TestRefusedStart:
    @pytest.fixture
    def refused(self, fleet: Fleet) -> Callable[..., str]:
        """What a start says with these changes to the environment."""

        def start(**environ: str | None) -> str:
            merged = {**fleet.replica().environ, **environ}
            return refused_start({k: v for k, v in merged.items() if v is not None})

        return start

    def test_names_every_bad_variable(self, refused: Callable[..., str]) -> None:
        """One message has all that is wrong with S3 and the rest, and no value."""
        said = refused(
            AWS_ENDPOINT_URL="s3.example.org",
            AWS_SECRET_ACCESS_KEY="<secret>",
            TOWNKEEPER_CACHE_BYTES="ten-gigabytes",
            TOWNKEEPER_REDIS_REPLICAS="two",
        )

        for name in ("AWS_ENDPOINT_URL", "AWS_SECRET_ACCESS_KEY"):
            assert name in said
        assert "TOWNKEEPER_CACHE_BYTES" in said
        assert "TOWNKEEPER_REDIS_REPLICAS" in said
        assert "ten-gigabytes" not in said

    def test_half_a_key(self, refused: Callable[..., str]) -> None:
        """A key without its secret is not taken for no key at all."""
        said = refused(AWS_SECRET_ACCESS_KEY=None)

        assert "AWS_SECRET_ACCESS_KEY is missing" in said

    @pytest.mark.parametrize("url", ["s3://B", "s3://bucket/a b", "s3://bucket/../x"])
    def test_a_malformed_url(self, refused: Callable[..., str], url: str) -> None:
        """A bucket or prefix that S3 would not take is named by its variable."""
        assert "TOWNKEEPER_BLOB_URL" in refused(TOWNKEEPER_BLOB_URL=url)

    def test_another_environment(
        self, fleet: Fleet, refused: Callable[..., str]
    ) -> None:
        """A prefix that another environment marked stops the start."""
        fleet.started()

        said = refused(TOWNKEEPER_ENVIRONMENT="staging")

        assert "environment 'development', not 'staging'" in said

    def test_a_server_that_is_down(self, refused: Callable[..., str]) -> None:
        """A store that does not answer stops the start."""
        said = refused(AWS_ENDPOINT_URL="http://127.0.0.1:1")

        assert "cannot use the blob store in S3" in said
