"""The promises of a BlobStore over a real S3, and what only S3 can do wrong."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

from services.chassis.errors import Reason, ServiceError
from services.chassis.parsers import blob_url
from services.chassis.settings import load
from services.snapshots import records
from services.snapshots.blob_cache import BlobCache
from services.snapshots.s3_blobs import PART_BYTES, S3Blobs, connect
from services.snapshots.s3_settings import S3Settings
from services.snapshots.store import BlobMissing
from services.snapshots.store_mark import LAYOUT, MARK
from tests.contract.snapshots.blob_suite import KEY, BlobStoreSuite
from tests.support.s3_server import S3Process
from tests.support.slow_proxy import SlowProxy

pytestmark = [pytest.mark.s3, pytest.mark.timeout(120)]

ENVIRONMENT = "tests"
CACHE_BYTES = 64 << 20


class Place:
    """A prefix of its own, and any number of replicas that use it."""

    def __init__(self, s3: S3Process, folder: Path) -> None:
        self.s3 = s3
        self.url = s3.new_url()
        self._folder = folder
        self._count = 0

    def replica(
        self,
        *,
        cache_bytes: int = CACHE_BYTES,
        url: str = "",
        environ: dict[str, str] | None = None,
        request_s: float = 30.0,
    ) -> S3Blobs:
        """One that has not asked the server anything."""
        self._count += 1
        folder = self._folder / f"replica-{self._count}"
        folder.mkdir()
        settings = load(S3Settings, self.s3.environ if environ is None else environ)
        store = connect(blob_url(url or self.url), settings, request_s=request_s)
        return S3Blobs(store, BlobCache(folder, cache_bytes))

    async def open(self, environment: str = ENVIRONMENT) -> S3Blobs:
        return await self.replica().open(self.url, environment)


@pytest.fixture
def place(s3: S3Process, tmp_path: Path) -> Place:
    return Place(s3, tmp_path)


@pytest.fixture
async def store(place: Place) -> S3Blobs:
    return await place.open()


class TestS3Blobs(BlobStoreSuite):
    async def test_one_of_many_replicas_wins(self, place: Place) -> None:
        """Of replicas that create a name at the same time exactly one makes it."""
        replicas = [await place.open() for _ in range(4)]
        calls = [
            each.create(KEY, b"%d-%d" % (n, number))
            for number, each in enumerate(replicas)
            for n in range(4)
        ]

        won = await asyncio.gather(*calls)

        assert 1 == won.count(True)

    async def test_large_blobs_come_in_parts(
        self, place: Place, store: S3Blobs, tmp_path: Path
    ) -> None:
        """A blob of several parts is the same at another replica, byte by byte."""
        data = os.urandom(PART_BYTES * 2 + 12_345)
        path = tmp_path / "large"
        path.write_bytes(data)
        key = segment_key(data)
        await store.publish(key, path)

        other = await place.open()
        async with other.local(key) as found:
            assert blake3(data).digest() == blake3(found.read_bytes()).digest()

    async def test_what_was_read_once_is_read_here(self, place: Place) -> None:
        """A copy serves as long as there is room, also when the server is away."""
        data = os.urandom(1000)
        first = await place.open()
        path = place._folder / "source"
        path.write_bytes(data)
        await first.publish(segment_key(data), path)
        reader = await place.open()
        async with reader.local(segment_key(data)) as once:
            assert data == once.read_bytes()
        await first.delete(segment_key(data))

        async with reader.local(segment_key(data)) as again:
            assert data == again.read_bytes()
        with pytest.raises(BlobMissing):
            _ = [part async for part in reader.stored(segment_key(data))]

    async def test_rotten_copies_are_not_kept(
        self, place: Place, store: S3Blobs, tmp_path: Path
    ) -> None:
        """A segment that is healed in the store is healed at every replica."""
        data, path = b"whole", tmp_path / "segment"
        path.write_bytes(b"rotten")
        key = segment_key(data)
        await store.publish(key, path)
        reader = await place.open()
        async with reader.local(key) as found:
            assert b"rotten" == found.read_bytes()
        path.unlink()
        path.write_bytes(data)
        await store.publish(key, path)

        async with reader.local(key) as found:
            assert data == found.read_bytes()

    async def test_a_missing_mark_fails_the_check(self, store: S3Blobs) -> None:
        """A bucket that somebody emptied is no healthy store."""
        await store.delete(MARK)

        with pytest.raises(ServiceError) as refused:
            await store.check()

        assert Reason.STORE_UNAVAILABLE is refused.value.reason


def segment_key(data: bytes) -> str:
    return records.segment_key("t", blake3(data).digest())


class TestOpening:
    async def refused(self, opening: Awaitable[Any], reason: Reason) -> str:
        with pytest.raises(ServiceError) as refused:
            await opening
        assert reason is refused.value.reason
        return refused.value.message

    async def test_all_replicas_find_one_mark(self, place: Place) -> None:
        """Replicas that start on an empty prefix together agree whose it is."""
        opened = await asyncio.gather(*(place.open() for _ in range(5)))

        assert 1 == len({each.store_id for each in opened})

    async def test_another_environment(self, place: Place, store: S3Blobs) -> None:
        """A store of another environment is never written to."""
        said = await self.refused(place.open("production"), Reason.STORE_FOREIGN)

        assert "environment 'tests', not 'production'" in said

    async def test_a_newer_layout(self, place: Place, store: S3Blobs) -> None:
        """A store that a later release wrote is left alone."""
        mark = json.loads(await store.read(MARK))
        await store.delete(MARK)
        newer = {**mark, "layout": LAYOUT + 1}
        await store.create(MARK, json.dumps(newer).encode())

        said = await self.refused(place.open(), Reason.STORE_FOREIGN)

        assert "upgrade Townkeeper" in said

    async def test_a_prefix_of_something_else(self, place: Place) -> None:
        """A prefix with other things below it is not taken over."""
        stranger = place.replica()
        await stranger.create("photos/1.jpg", b"")

        said = await self.refused(place.open(), Reason.STORE_FOREIGN)

        assert "give an empty prefix" in said
        assert ["photos"] == await stranger.list("")

    @pytest.mark.parametrize("ignored", [str, dict])
    async def test_a_server_without_conditions(
        self, place: Place, ignored: type
    ) -> None:
        """A server that lets a second creator overwrite the first one is refused: two
        records of one number would become one. So is one that replaces what has
        changed since it was read: a record would fall back."""
        blobs = place.replica()
        blobs._store = Careless(blobs._store, ignored)  # type: ignore[assignment]

        said = await self.refused(
            blobs.open(place.url, ENVIRONMENT), Reason.STORE_FOREIGN
        )

        assert "If-None-Match" in said


class Careless:
    """A client of a server that ignores a kind of condition of a put."""

    def __init__(self, store: Any, ignored: type) -> None:
        self._store = store
        self._ignored = ignored

    async def put_async(self, key: str, data: bytes, mode: Any) -> None:
        if isinstance(mode, self._ignored):
            mode = "overwrite"
        await self._store.put_async(key, data, mode=mode)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


CALLS: dict[str, Callable[[S3Blobs], Awaitable[Any]]] = {
    "create": lambda store: store.create(KEY, b""),
    "swap": lambda store: store.swap(KEY, b"", b"1"),
    "read": lambda store: store.read(KEY),
    "list": lambda store: store.list("towns"),
    "delete": lambda store: store.delete(KEY),
    "check": lambda store: store.check(),
}


class TestTrouble:
    async def says(self, blobs: S3Blobs, call: str) -> str:
        with pytest.raises(ServiceError) as refused:
            await CALLS[call](blobs)
        assert Reason.STORE_UNAVAILABLE is refused.value.reason
        return refused.value.message

    @pytest.mark.parametrize("call", CALLS)
    async def test_a_foreign_key(self, place: Place, call: str) -> None:
        """Credentials that the server does not know are no missing blob."""
        environ = {**place.s3.environ, "AWS_ACCESS_KEY_ID": "stranger"}

        said = await self.says(place.replica(environ=environ), call)

        assert "a-secret-of-the-tests" not in said

    @pytest.mark.parametrize("call", ["read", "list", "create", "swap", "check"])
    async def test_no_bucket(self, place: Place, call: str) -> None:
        """A bucket that is not there is not an empty one."""
        blobs = place.replica(url="s3://not-there/x", environ=place.s3.guest_environ)

        await self.says(blobs, call)

    @pytest.mark.parametrize("call", CALLS)
    async def test_nobody_listens(self, place: Place, call: str) -> None:
        """A server that is down is said to be, soon."""
        environ = {**place.s3.environ, "AWS_ENDPOINT_URL": "http://127.0.0.1:1"}

        await self.says(place.replica(environ=environ), call)

    async def test_a_silent_server(self, place: Place) -> None:
        """A server that takes requests and never answers does not hold us for ever,
        and what was cut off is not half there."""
        with SlowProxy(place.s3.endpoint.removeprefix("http://")) as proxy:
            url = f"http://{proxy.address}"
            environ = {**place.s3.environ, "AWS_ENDPOINT_URL": url}
            blobs = place.replica(environ=environ, request_s=0.5)
            proxy.to_client.hole = True
            for call in ("create", "check"):
                await self.says(blobs, call)

        healthy = place.replica()
        assert b"" == await healthy.read(KEY)

    async def test_a_server_that_was_killed(self, place: Place, tmp_path: Path) -> None:
        """What was answered is there when the server is back; what was under way is
        whole or not there."""
        with S3Process(tmp_path / "own") as server:
            own = Place(server, tmp_path)
            store = await own.open()
            await store.create("a/1", b"kept")
            data = os.urandom(PART_BYTES * 3)
            path = tmp_path / "large"
            path.write_bytes(data)
            publishing = asyncio.create_task(store.publish(segment_key(data), path))
            await asyncio.sleep(0)
            server.kill()
            with pytest.raises(ServiceError) as refused:
                await publishing
            server.start()

            assert Reason.STORE_UNAVAILABLE is refused.value.reason
            assert b"kept" == await store.read("a/1")
            with pytest.raises(BlobMissing):
                await store.read(segment_key(data))
            await store.publish(segment_key(data), path)
            assert data == await store.read(segment_key(data))


class TestCache:
    async def test_is_bounded(self, place: Place, tmp_path: Path) -> None:
        """The copies that were not used for the longest time make room."""
        store = await place.open()
        keys = []
        for n in range(4):
            path = tmp_path / str(n)
            path.write_bytes(data := bytes([n]) * 1000)
            keys.append(segment_key(data))
            await store.publish(keys[-1], path)
        small = place.replica(cache_bytes=2500)
        cache = small._cache

        async with small.local(keys[0]) as held:
            for key in keys[1:]:
                async with small.local(key):
                    pass
            assert bytes(1000) == held.read_bytes()

        assert 2000 == cache.size_bytes
        assert 2 == len(list(cache._folder.iterdir()))

    async def test_many_readers_fetch_once(
        self, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Readers of one blob at the same time share one transfer."""
        path = tmp_path / "source"
        path.write_bytes(data := b"x" * 1000)
        await (await place.open()).publish(segment_key(data), path)
        reader = place.replica()
        fetched: list[str] = []
        fetch = reader._fetch

        async def counted(key: str, path: Path) -> None:
            fetched.append(key)
            await fetch(key, path)

        monkeypatch.setattr(reader, "_fetch", counted)

        async def read() -> bytes:
            async with reader.local(segment_key(data)) as path:
                return path.read_bytes()

        assert [data] * 8 == await asyncio.gather(*(read() for _ in range(8)))
        assert 1 == len(fetched)
