"""Redis that dies, comes back, comes back older, or comes back empty."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.snapshots.__main__ import SERVICE
from tests.faults.snapshots.plant import Plant
from tests.support import segments as made
from tests.support.redis_server import ValkeyProcess
from tests.support.snapshot_errors import reason_of, refusal
from tests.support.snapshot_frames import (
    Client,
    Frame,
    chunks,
    file_header,
    header,
    trailer,
)
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.faults, pytest.mark.redis, pytest.mark.timeout(120)]

IMAGE = made.image(50)
BASE = made.base(IMAGE)
FINGERPRINT = bytes(made.fingerprint(IMAGE))


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[ValkeyProcess]:
    """One that these tests may hurt."""
    with ValkeyProcess(tmp_path) as own:
        yield own


async def save(client: Client, generation: int, epoch: int = 1) -> None:
    await client.upload(BASE, FINGERPRINT, if_generation_match=generation, epoch=epoch)


async def arrived(client: Client, first: Frame) -> bool:
    """Whether all of BASE is with the service."""
    try:
        return len(BASE) == await client.persisted(first.header.upload_id)
    except grpc.aio.AioRpcError:
        return False


async def not_serving(client: Client) -> bool:
    """What a readiness probe hears."""
    health = health_pb2_grpc.HealthStub(client.channel)
    request = health_pb2.HealthCheckRequest(service=SERVICE.full_name)
    answer = await health.Check(request)
    return bool(answer.status == health_pb2.HealthCheckResponse.NOT_SERVING)


async def generations(client: Client) -> list[int]:
    found = await client.list()
    return [snapshot.generation for snapshot in found.snapshots]


async def test_redis_is_away_for_a_while(plant: Plant) -> None:
    """Uploads fail as passing trouble and go on when Redis is back, without a restart
    of the service."""
    plant.process.start()
    async with plant.client() as client:
        await client.advance()
        await save(client, 0)
        plant.valkey.kill()
        first = header(if_generation_match=1)
        found = await reason_of(client.send([first, *chunks(BASE)]))
        await asyncio.to_thread(plant.valkey.start)

        done = await client.send([first, *chunks(BASE), trailer(BASE, FINGERPRINT)])

        assert ("UNAVAILABLE", "STORE_UNAVAILABLE") == found
        assert 2 == done.snapshot.generation


async def test_redis_dies_between_chunks_and_trailer(plant: Plant) -> None:
    """What arrived is kept, and the trailer alone commits it later."""
    plant.process.start()
    async with plant.client() as client:
        await client.advance()
        first = header()
        go_on = asyncio.Event()

        async def frames() -> AsyncIterator[Frame]:
            yield first
            for piece in chunks(BASE, size=5000):
                yield piece
            await go_on.wait()
            yield trailer(BASE, FINGERPRINT)

        call = client.stub.UploadSnapshot(frames())
        await wait_until(partial(arrived, client, first))
        plant.valkey.kill()
        go_on.set()
        with pytest.raises(grpc.aio.AioRpcError):
            await call
        await asyncio.to_thread(plant.valkey.start)

        first.header.write_offset = await client.persisted(first.header.upload_id)
        done = await client.send([first, trailer(BASE, FINGERPRINT)])

        assert len(BASE) == first.header.write_offset
        assert 1 == done.snapshot.generation


async def test_redis_comes_back_empty(plant: Plant) -> None:
    """Everything is found again from the records in the blob store, and no epoch that
    was ever used commits without a new claim."""
    plant.process.start()
    async with plant.client() as client:
        await client.advance(epoch=3)
        for generation in range(3):
            await save(client, generation, epoch=3)
    plant.process.kill()
    plant.valkey.flush()

    plant.process.start()

    async with plant.client() as client:
        assert [3, 2, 1] == await generations(client)
        assert b"".join(IMAGE) == (await client.download()).data
        assert "LEASE_FENCED" == (await refusal(save(client, 3, epoch=3))).reason.name
        assert "LEASE_FENCED" == (await refusal(client.advance(epoch=2))).reason.name
        assert 3 == (await client.advance(epoch=3)).generation
        await save(client, 3, epoch=3)
        assert [4, 3, 2, 1] == await generations(client)


async def test_redis_comes_back_empty_unnoticed(plant: Plant) -> None:
    """Whoever starts an agent then is given its head all the same, and only to an
    epoch that is not behind."""
    plant.process.start()
    async with plant.client() as client:
        await client.advance(epoch=3)
        await save(client, 0, epoch=3)
        kept = (await client.get()).snapshot
        plant.valkey.flush()

        late = await refusal(client.advance(epoch=2))
        answer = await client.advance(epoch=4)
        await save(client, 1, epoch=4)

        assert "LEASE_FENCED" == late.reason.name
        assert kept == answer.head
        assert [2, 1] == await generations(client)


async def test_redis_comes_back_older(plant: Plant) -> None:
    """A Redis restored from a copy knows less than the blob store: the first save
    notices, nothing that was acknowledged is overwritten, and saving goes on."""
    copied = plant.folder / "copy"
    plant.process.start()
    async with plant.client() as client:
        await client.advance()
        await save(client, 0)
        plant.valkey.kill()
        shutil.copytree(plant.valkey.folder, copied)
        await asyncio.to_thread(plant.valkey.start)
        newer = made.edited(IMAGE, [5], b"newer")
        kept = await client.upload(
            made.base(newer), bytes(made.fingerprint(newer)), if_generation_match=1
        )
        await save(client, 2)
        plant.valkey.kill()
        shutil.rmtree(plant.valkey.folder)
        shutil.copytree(copied, plant.valkey.folder)
        await asyncio.to_thread(plant.valkey.start)

        late = await refusal(save(client, 3))
        unnoticed = await refusal(save(client, 1))
        fenced = await refusal(save(client, 3))
        answer = await client.advance(epoch=2)
        await save(client, 3, epoch=2)

        assert ("GENERATION_MISMATCH", {"generation": "1"}) == (
            late.reason.name,
            late.metadata,
        )
        assert "STORE_UNAVAILABLE" == unnoticed.reason.name
        assert "LEASE_FENCED" == fenced.reason.name
        assert 3 == answer.generation
        assert [4, 3, 2, 1] == await generations(client)
        assert kept == (await client.get(2)).snapshot
        assert b"".join(newer) == (await client.download(2)).data


async def test_a_careless_redis(plant: Plant) -> None:
    """Where acknowledged writes can be lost, saves are refused, health says it, and
    reads go on."""
    plant.process.start()
    async with plant.client() as client:
        await client.advance()
        await save(client, 0)
        await asyncio.to_thread(plant.valkey.restart, appendfsync="everysec")

        assert ("UNAVAILABLE", "NOT_DURABLE") == await reason_of(save(client, 1))
        assert b"".join(IMAGE) == (await client.download()).data

        await wait_until(partial(not_serving, client))
        await asyncio.to_thread(plant.valkey.restart, appendfsync="always")
        await save(client, 1)
        assert [2, 1] == await generations(client)


async def test_records_that_were_not_written(plant: Plant) -> None:
    """A record that Redis has and the blob store lacks is written at the start."""
    plant.process.start()
    async with plant.client() as client:
        for data in (b"one", b"two"):
            await client.upload_file(data)
    plant.process.kill()
    [first, second] = (plant.process.blobs / "towns").rglob("*.json")
    wanted = {path.name: path.read_bytes() for path in (first, second)}
    first.unlink()

    plant.process.start()

    assert wanted == {
        path.name: path.read_bytes()
        for path in (plant.process.blobs / "towns").rglob("*.json")
    }
    async with plant.client() as client:
        again = file_header()
        await client.send([again, *chunks(b"three"), trailer(b"three")])
        assert [3, 2, 1] == await generations(client)
