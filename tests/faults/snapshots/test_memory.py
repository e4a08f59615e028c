"""A large file comes in and goes out without ever being held in memory."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator

import pytest
from blake3 import blake3

from tests.faults.snapshots.plant import Plant
from tests.support.snapshot_frames import NAME, Frame, chunk, file_header
from townkeeper.snapshots.v1 import snapshots_pb2 as pb

pytestmark = [pytest.mark.faults, pytest.mark.redis, pytest.mark.timeout(300)]

SIZE_MIB = 300
MIB = 1 << 20
GROWTH_MAX_BYTES = 64 * MIB


def noise(index: int) -> bytes:
    """The index-th MiB of a file that nobody holds."""
    return random.Random(index).randbytes(MIB)


async def test_300_mb_of_noise(plant: Plant) -> None:
    """300 MB come back bit for bit, and the process grew by at most 64 MiB."""
    plant.process.start()
    sent = blake3()

    async def frames() -> AsyncIterator[Frame]:
        yield file_header()
        for index in range(SIZE_MIB):
            data = noise(index)
            sent.update(data)
            yield chunk(data, index * MIB)
        end = pb.UploadTrailer(size_bytes=SIZE_MIB * MIB, blake3=sent.digest())
        yield Frame(trailer=end)

    async with plant.client() as client:
        await client.upload_file(b"warm")
        await client.download()
        before = plant.process.rss_bytes()

        answer = await client.stub.UploadSnapshot(frames())
        request = pb.DownloadSnapshotRequest(name=f"{NAME}/snapshots/latest")
        received, size_bytes = blake3(), 0
        async for frame in client.stub.DownloadSnapshot(request):
            received.update(frame.chunk.data)
            size_bytes += len(frame.chunk.data)

        assert SIZE_MIB * MIB == answer.snapshot.size_bytes == size_bytes
        assert sent.digest() == received.digest()
        assert plant.process.peak_rss_bytes() - before <= GROWTH_MAX_BYTES
