"""A disk that answers EIO for a while, and a file system that is really full."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Iterator

import pytest

from tests.faults.snapshots.plant import Plant
from tests.support.snapshot_errors import reason_of
from tests.support.snapshot_frames import Client, Frame, chunks, file_header, trailer

pytestmark = [pytest.mark.faults, pytest.mark.redis, pytest.mark.timeout(120)]

NOISE = random.Random(1).randbytes(3_000_000)
UNAVAILABLE = ("UNAVAILABLE", "STORE_UNAVAILABLE")
FULL = ("RESOURCE_EXHAUSTED", "STORAGE_FULL")
GONE = ("NOT_FOUND", "UPLOAD_NOT_FOUND")
ROOM_BYTES = 12 << 20
LEFT_BYTES = 1_500_000


def frames(first: Frame) -> list[Frame]:
    return [first, *chunks(NOISE, first.header.write_offset), trailer(NOISE)]


async def check_recovered(
    plant: Plant, client: Client, first: Frame, *, kept: bool = True
) -> None:
    """The same upload goes on to one generation, in the same process. Bytes that could
    not be synced are not kept: the next sync would vouch for them."""
    assert [] == plant.files("scratch")
    assert b"before" == (await client.download()).data
    upload_id = first.header.upload_id
    if kept:
        first.header.write_offset = await client.persisted(upload_id)
    else:
        assert GONE == await reason_of(client.persisted(upload_id))
    done = await client.send(frames(first))
    assert 2 == done.snapshot.generation
    assert NOISE == (await client.download()).data
    assert [] == plant.files("staging")


@pytest.mark.parametrize("call", ["fsync", "pwrite", "link"])
async def test_a_disk_that_fails(plant: Plant, call: str) -> None:
    """STORE_UNAVAILABLE while it lasts; what was there is served; then it goes on."""
    failing = plant.folder / "failing"
    plant.process.module = "tests.faults.snapshots.failing_service"
    plant.process.start(TK_FAILING=str(failing))
    pid = plant.process.pid
    async with plant.client() as client:
        await client.upload_file(b"before")
        first = file_header()
        failing.write_text(call)

        found = await reason_of(client.send(frames(first)))

        assert UNAVAILABLE == found
        assert b"before" == (await client.download()).data
        failing.unlink()
        await check_recovered(plant, client, first, kept=call != "fsync")
        assert pid == plant.process.pid


@pytest.fixture
def small(plant: Plant) -> Iterator[Plant]:
    """Its blob store is a file system of its own, with little room."""
    plant.process.blobs.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={ROOM_BYTES}", "tmpfs"]
    done = subprocess.run([*mount, str(plant.process.blobs)], capture_output=True)
    if done.returncode:
        pytest.skip("only root may mount a file system")
    yield plant
    plant.process.kill()
    subprocess.run(["umount", str(plant.process.blobs)], check=True)


async def test_a_file_system_that_is_full(small: Plant) -> None:
    """STORAGE_FULL; what was there is served; with room, the same upload goes on."""
    small.process.start()
    async with small.client() as client:
        await client.upload_file(b"before")
        filler = small.process.blobs / "staging" / "filler"
        filler.write_bytes(bytes(ROOM_BYTES - LEFT_BYTES))
        first = file_header()

        found = await reason_of(client.send(frames(first)))

        assert FULL == found
        filler.unlink()
        await check_recovered(small, client, first)
