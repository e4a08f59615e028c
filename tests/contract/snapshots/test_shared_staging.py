"""Uploads that any replica may take up: parts in the store, the rest in the ledger."""

from __future__ import annotations

import asyncio
import itertools
import zlib
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from blake3 import blake3

from services.chassis.errors import Reason, ServiceError
from services.chassis.redis_pool import Store, connect
from services.snapshots import shared_staging
from services.snapshots.generations import Claim, Origin
from services.snapshots.redis_uploads import RedisUploads
from services.snapshots.shared_staging import HOLD_S, SharedStaging
from services.snapshots.staging import PAUSED_FOR
from services.snapshots.upload import Body, Chunk, Header, Upload
from tests.fakes.blob_store import MemoryBlobs
from tests.support.clock import ManualClock
from tests.support.faults import failing_once
from tests.support.redis_rights import SNAPSHOTS, url
from tests.support.redis_server import ValkeyProcess
from tests.support.snapshot_values import NAME
from tests.support.waiting import wait_until

pytestmark = pytest.mark.redis

ID = "01234567-89ab-4cde-8f01-23456789abcd"
LIMIT = 1 << 30
HOLD = f"tk:snapshots:{{{NAME.town}}}:hold:{ID}"


@pytest.fixture
async def redis(valkey: ValkeyProcess) -> AsyncIterator[Store]:
    """As the service's user."""
    redis = await connect(url(valkey, SNAPSHOTS))
    yield redis
    await redis.aclose()


@pytest.fixture
async def by_hand(valkey: ValkeyProcess) -> AsyncIterator[Store]:
    """As one who may do everything."""
    by_hand = await connect(valkey.url)
    yield by_hand
    await by_hand.aclose()


@pytest.fixture
def blobs(tmp_path: Path) -> MemoryBlobs:
    return MemoryBlobs(tmp_path)


class Replicas:
    """Makes replicas over one store and one ledger."""

    def __init__(
        self, redis: Store, by_hand: Store, blobs: MemoryBlobs, folder: Path
    ) -> None:
        self.redis, self.by_hand = redis, by_hand
        self.blobs, self.folder = blobs, folder
        self.clock = ManualClock()
        self._numbers = itertools.count()

    def one(
        self, *, paused_for: timedelta = PAUSED_FOR, renew_every_s: float = 3600
    ) -> SharedStaging:
        return SharedStaging(
            self.blobs,
            RedisUploads(self.redis, self.clock, paused_for=paused_for),
            lambda: self.folder / f"scratch-{next(self._numbers)}",
            renew_every_s=renew_every_s,
        )

    @property
    def parts(self) -> list[str]:
        return sorted(key for key in self.blobs.blobs if key.startswith("staging/"))

    @property
    def scratch(self) -> list[Path]:
        return list(self.folder.glob("scratch-*"))


@pytest.fixture
def replicas(
    redis: Store, by_hand: Store, blobs: MemoryBlobs, tmp_path: Path
) -> Replicas:
    return Replicas(redis, by_hand, blobs, tmp_path)


def header(offset: int = 0, body: Body = Body.SEGMENT) -> Header:
    return Header(NAME, body, Origin(ID), Claim(), offset)


async def stage(
    staging: SharedStaging, *parts: bytes, offset: int = 0, discard: bool = False
) -> bytes:
    """Appends the parts; the digest of all that is there."""
    upload = Upload(LIMIT)
    async with staging.opened(header(offset)) as staged:
        upload.begin(header(offset), staged.size_bytes)
        for part in parts:
            chunk = Chunk(upload.size_bytes, part, zlib.crc32(part))
            await staged.take(upload, chunk)
        staged.discarded = discard
        assert staged.size_bytes == staged.path.stat().st_size
        return staged.digest.digest()


async def persisted(staging: SharedStaging) -> int | None:
    found = await staging.find(NAME, ID)
    return found.persisted_bytes if found else None


class TestResuming:
    async def test_grows_over_streams_and_replicas(self, replicas: Replicas) -> None:
        """The digest covers all bytes, whichever replica took them."""
        await stage(replicas.one(), b"ab", b"c")

        digest = await stage(replicas.one(), b"de", offset=3)

        assert blake3(b"abcde").digest() == digest
        assert 5 == await persisted(replicas.one())
        assert [] == replicas.scratch

    async def test_parts_go_out_as_they_come(
        self, replicas: Replicas, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A replica that dies loses less than one part of a long stream."""
        monkeypatch.setattr(shared_staging, "PART_BYTES", 10)
        upload = Upload(LIMIT)
        async with replicas.one().opened(header()) as staged:
            upload.begin(header(), 0)
            for n in range(5):
                data = b"%d234" % n
                await staged.take(upload, Chunk(n * 4, data, zlib.crc32(data)))

            assert 12 == await persisted(replicas.one())

    async def test_an_upload_in_one_go_leaves_nothing(self, replicas: Replicas) -> None:
        """What committed, or was refused for ever, is forgotten with its parts."""
        await stage(replicas.one(), b"abc")
        await stage(replicas.one(), b"d", offset=3, discard=True)

        assert None is await persisted(replicas.one())
        assert [] == replicas.parts
        assert 0 == len(await replicas.by_hand.keys("*"))

    async def test_a_lost_part_is_sent_again(self, replicas: Replicas) -> None:
        """An upload goes on where its bytes are whole, whatever became of the rest."""
        await stage(replicas.one(), b"abc")
        await stage(replicas.one(), b"def", offset=3)
        del replicas.blobs.blobs[replicas.parts[-1]]

        digest = await stage(replicas.one(), b"DEFG", offset=3)

        assert blake3(b"abcDEFG").digest() == digest

    async def test_a_store_that_is_away(self, replicas: Replicas) -> None:
        """Bytes that could not be kept are not said to be."""
        await stage(replicas.one(), b"abc")
        replicas.blobs.before = failing_once("create", Reason.STORE_UNAVAILABLE)

        await stage(replicas.one(), b"def", offset=3)

        assert 3 == await persisted(replicas.one())


class TestHolding:
    async def test_one_stream_at_a_time(self, replicas: Replicas) -> None:
        """A second stream is refused while the first is alive, and so is an abort."""
        async with replicas.one().opened(header()):
            with pytest.raises(ServiceError) as refused:
                await stage(replicas.one(), b"")
            with pytest.raises(ServiceError) as kept:
                await replicas.one().abort(NAME, ID)

        assert Reason.UPLOAD_BUSY is refused.value.reason
        assert Reason.UPLOAD_BUSY is kept.value.reason
        await stage(replicas.one(), b"abc")

    async def test_a_stream_that_waits_is_alive(self, replicas: Replicas) -> None:
        """A stream keeps its upload also while nothing comes, or while it commits."""
        half_ms = round(HOLD_S * 500)
        async with replicas.one(renew_every_s=0.01).opened(header()):
            await replicas.by_hand.pexpire(HOLD, half_ms)

            async def renewed() -> bool:
                return bool(await replicas.by_hand.pttl(HOLD) > half_ms)

            await wait_until(renewed)

    async def test_a_dead_replica_lets_go(self, replicas: Replicas) -> None:
        """An upload whose replica is not heard of is free; if that one was only slow,
        it can add nothing any more."""
        other = replicas.one()
        upload = Upload(LIMIT)
        async with replicas.one().opened(header()) as slow:
            upload.begin(header(), 0)
            await slow.take(upload, Chunk(0, b"abc", zlib.crc32(b"abc")))
            assert 0 < await replicas.by_hand.pttl(HOLD) <= HOLD_S * 1000
            await replicas.by_hand.delete(HOLD)
            await stage(other, b"xyz")

            with pytest.raises(ServiceError) as refused:
                await slow.send()

        assert Reason.UPLOAD_BUSY is refused.value.reason
        assert 3 == await persisted(other)
        assert blake3(b"xyz!").digest() == await stage(other, b"!", offset=3)

    async def test_a_slow_one_takes_no_parts_with_it(self, replicas: Replicas) -> None:
        """What it throws away is its own view; the parts are its successor's now."""
        other = replicas.one()
        await stage(other, b"abc")
        async with replicas.one().opened(header(3)) as slow:
            await replicas.by_hand.delete(HOLD)
            await stage(other, b"xyz", offset=3)
            slow.discarded = True

        assert 6 == await persisted(other)
        assert blake3(b"abcxyz!").digest() == await stage(other, b"!", offset=6)

    async def test_of_many_streams_one_wins(self, replicas: Replicas) -> None:
        """Of streams that begin at the same time exactly one has the upload."""

        refused: list[Reason] = []

        async def begun(staging: SharedStaging) -> bool:
            try:
                async with staging.opened(header()):
                    await wait_until(lambda: 7 == len(refused))
                    return True
            except ServiceError as error:
                refused.append(error.reason)
                return False

        won = await asyncio.gather(*(begun(replicas.one()) for _ in range(8)))

        assert 1 == won.count(True)
        assert {Reason.UPLOAD_BUSY} == set(refused)


class TestForgetting:
    async def test_aborted(self, replicas: Replicas) -> None:
        """What its client gives up is gone at every replica; twice is once."""
        await stage(replicas.one(), b"abc")

        await replicas.one().abort(NAME, ID)
        await replicas.one().abort(NAME, ID)

        assert None is await persisted(replicas.one())
        assert [] == replicas.parts

    async def test_another_agents_upload(self, replicas: Replicas) -> None:
        """An id that another agent or body has is refused, and shown to nobody else."""
        await stage(replicas.one(), b"abc")
        other = type(NAME)(NAME.town, "other")

        with pytest.raises(ServiceError) as refused:
            async with replicas.one().opened(header(body=Body.FILE)):
                raise AssertionError("unreachable")
        await replicas.one().abort(other, ID)

        assert Reason.UPLOAD_REUSED is refused.value.reason
        assert None is await replicas.one().find(other, ID)
        assert 3 == await persisted(replicas.one())

    async def test_late_ones_expire(self, replicas: Replicas) -> None:
        """Parts of an upload that nobody resumed in time go; those of others stay."""
        short = replicas.one(paused_for=timedelta(milliseconds=1))
        await stage(short, b"abc")
        await wait_until(lambda: gone(short))
        await stage(replicas.one(), b"xy")
        assert 2 == len(replicas.parts)

        assert 1 == await replicas.one().expire()

        assert 1 == len(replicas.parts)
        assert 2 == await persisted(replicas.one())

    async def test_the_time_that_is_left(self, replicas: Replicas) -> None:
        """A client is told until when it may come back."""
        await stage(replicas.one(), b"abc")

        found = await replicas.one().find(NAME, ID)

        assert found is not None
        assert replicas.clock.now() + PAUSED_FOR == found.expire_time


async def gone(staging: SharedStaging) -> bool:
    return await staging.find(NAME, ID) is None
