"""SIGKILL and SIGTERM at random moments of an upload, which then goes on."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections.abc import AsyncIterator

import grpc
import pytest

from tests.faults.snapshots.plant import Plant
from tests.support.snapshot_frames import (
    Client,
    Frame,
    chunks,
    file_header,
    streamed,
    trailer,
)

pytestmark = [pytest.mark.faults, pytest.mark.redis, pytest.mark.timeout(300)]

ROUNDS = int(os.environ.get("ROUNDS") or 4)
SEED = int(os.environ.get("SEED") or 1)
PIECE_BYTES = 200_000


async def persisted(client: Client, upload_id: str) -> int:
    """How far the upload got; 0 if the service knows nothing of it."""
    try:
        return await client.persisted(upload_id)
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.NOT_FOUND:
            raise
        return 0


async def attempt(client: Client, first: Frame, data: bytes) -> int:
    """Sends from where the service says; the generation, 0 if it was cut."""
    try:
        first.header.write_offset = await persisted(client, first.header.upload_id)
        rest = chunks(data, first.header.write_offset, PIECE_BYTES)
        frames = streamed([first, *rest, trailer(data)])
        answer = await client.stub.UploadSnapshot(frames, timeout=30)
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.UNAVAILABLE:
            raise
        return 0
    return int(answer.snapshot.generation)


async def test_killed_at_random_moments(plant: Plant) -> None:
    """However often it is killed on the way, the upload ends as the same bytes, and
    what was acknowledged before stays."""
    source = random.Random(SEED)
    acknowledged: dict[int, bytes] = {}
    plant.process.start()
    for _ in range(ROUNDS):
        data = source.randbytes(source.randrange(4_000_000, 12_000_000))
        first, generation, kills = file_header(), 0, 0
        while not generation:
            async with plant.client() as client:
                sending = asyncio.create_task(attempt(client, first, data))
                await asyncio.wait({sending}, timeout=source.uniform(0.0, 0.25))
                if kills < 3:
                    kills += 1
                    plant.process.kill()
                    await asyncio.to_thread(plant.process.start)
                generation = await sending
        acknowledged[generation] = data

    assert list(range(1, ROUNDS + 1)) == sorted(acknowledged)
    async with plant.client() as client:
        for generation, data in acknowledged.items():
            assert data == (await client.download(generation)).data
    assert [] == plant.files("staging")
    assert [] == plant.files("scratch")


async def test_an_acknowledged_offset_never_goes_back(plant: Plant) -> None:
    """What GetUpload called persisted is there after a kill."""
    data = random.Random(SEED).randbytes(3_000_000)
    first = file_header()
    plant.process.start()
    for cut in (1, 700_000, 2_000_000):
        async with plant.client() as client:
            first.header.write_offset = await persisted(client, first.header.upload_id)
            offset = first.header.write_offset
            await client.send([first, *chunks(data[:cut], offset, PIECE_BYTES)])
        plant.process.kill()
        plant.process.start()
        async with plant.client() as client:
            assert cut == await persisted(client, first.header.upload_id)


async def test_stopped_in_mid_stream(plant: Plant) -> None:
    """SIGTERM lets a running upload finish within its grace, and ends with 0."""
    data = random.Random(SEED).randbytes(1_000_000)
    first = file_header()
    go_on = asyncio.Event()

    async def frames() -> AsyncIterator[Frame]:
        yield first
        pieces = list(chunks(data, size=PIECE_BYTES))
        for piece in pieces[:2]:
            yield piece
        await go_on.wait()
        for piece in pieces[2:]:
            yield piece
        yield trailer(data)

    plant.process.start()
    async with plant.client() as client:
        call = client.stub.UploadSnapshot(frames())
        await asyncio.sleep(0)
        while not await persisted(client, first.header.upload_id):
            await asyncio.sleep(0.01)
        stopping = asyncio.create_task(asyncio.to_thread(plant.process.stop))
        with contextlib.suppress(grpc.aio.AioRpcError):
            while True:  # until it refuses new calls
                await client.list()
                await asyncio.sleep(0.01)
        go_on.set()
        answer = await call

    assert 1 == answer.snapshot.generation
    assert 0 == await stopping
