"""A disk without room: commits fail whole, and what was there is served."""

from __future__ import annotations

import random
import resource

import pytest

from tests.faults.snapshots.plant import Plant
from tests.support.snapshot_errors import reason_of
from tests.support.snapshot_frames import chunks, file_header, trailer

pytestmark = [pytest.mark.faults, pytest.mark.redis, pytest.mark.timeout(120)]

FULL = ("RESOURCE_EXHAUSTED", "STORAGE_FULL")
NOISE = random.Random(1).randbytes(3_000_000)
UNLIMITED = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)


@pytest.mark.parametrize(
    "room_bytes",
    [
        pytest.param(1, id="not a byte"),
        pytest.param(1_500_000, id="half of the upload"),
        pytest.param(len(NOISE), id="the upload, but not its segment"),
    ],
)
async def test_no_room(plant: Plant, room_bytes: int) -> None:
    """STORAGE_FULL at whatever step it is noticed; with room again, the same upload
    goes on and commits."""
    plant.process.start()
    async with plant.client() as client:
        await client.upload_file(b"before")
        # Beyond this size no file can be written: to the service, a full disk.
        limit = (room_bytes, resource.RLIM_INFINITY)
        resource.prlimit(plant.process.pid, resource.RLIMIT_FSIZE, limit)
        first = file_header()

        found = await reason_of(client.send([first, *chunks(NOISE), trailer(NOISE)]))

        assert FULL == found
        assert b"before" == (await client.download()).data
        assert [] == plant.files("scratch")
        resource.prlimit(plant.process.pid, resource.RLIMIT_FSIZE, UNLIMITED)
        first.header.write_offset = await client.persisted(first.header.upload_id)
        rest = chunks(NOISE, first.header.write_offset)
        done = await client.send([first, *rest, trailer(NOISE)])
        assert 2 == done.snapshot.generation
        assert NOISE == (await client.download()).data
