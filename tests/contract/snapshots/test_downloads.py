"""DownloadSnapshot: both forms, ranges, and stored bytes that have rotted."""

from __future__ import annotations

import random
import zlib
from typing import Any

import pytest
from blake3 import blake3

from tests.contract.snapshots.conftest import Saves
from tests.support import segments as made
from tests.support.snapshot_errors import reason_of, refusal
from tests.support.snapshot_frames import Client
from tests.support.snapshots_world import World
from townkeeper.snapshots.v1 import snapshots_pb2 as pb

SEGMENTS = pb.DownloadSnapshotRequest.CONTENT_SEGMENTS
FILE = pb.DownloadSnapshotRequest.CONTENT_FILE
NOISE = random.Random(3).randbytes(3_000_000)
LOST = ("DATA_LOSS", "SNAPSHOT_CORRUPT")


class TestForms:
    async def test_frames(self, saves: Saves) -> None:
        """A header, chunks whose sums hold, and a trailer over what was sent."""
        await saves.base()
        saved = await saves.delta()

        found = await saves.client.download(content=FILE)

        assert saved == found.header
        assert [zlib.crc32(part.data) for part in found.chunks] == [
            part.crc32 for part in found.chunks
        ]
        assert found.trailer is not None
        assert len(found.data) == found.trailer.size_bytes
        assert blake3(found.data).digest() == found.trailer.blake3

    async def test_segments_as_stored(self, saves: Saves) -> None:
        """Segments come one after the other, as the header lists them."""
        await saves.base()
        await saves.delta()
        images = saves.images
        stored = made.base(images[0]) + made.delta(images[0], images[1])

        found = await saves.client.download(content=SEGMENTS)

        assert stored == found.data
        assert found.header is not None
        assert len(stored) == sum(part.size_bytes for part in found.header.segments)
        position = 0
        for part in found.chunks:
            assert position == part.offset
            position += len(part.data)

    async def test_any_generation(self, saves: Saves) -> None:
        """Not only the newest one can be gone back to."""
        await saves.base()
        await saves.delta()
        await saves.delta()

        for generation in (1, 2, 3):
            found = await saves.client.download(generation)
            assert saves.file(generation) == found.data

    @pytest.mark.parametrize(
        ("offset", "limit"),
        [
            (0, 0),
            (0, 1),
            (1, 1 << 20),
            (1 << 20, 5),
            ((1 << 20) - 1, 2),
            (len(NOISE) - 1, 0),
            (len(NOISE) - 1, 100),
            (len(NOISE), 0),
        ],
    )
    async def test_ranges(self, client: Client, offset: int, limit: int) -> None:
        """Any range reads as a slice of the file."""
        await client.upload_file(NOISE)
        end = offset + limit if limit else len(NOISE)

        found = await client.download(offset=offset, limit=limit)

        assert NOISE[offset:end] == found.data
        assert all(len(part.data) <= 1 << 20 for part in found.chunks)
        assert offset == found.chunks[0].offset if found.chunks else True

    async def test_a_range_of_a_chain(self, saves: Saves) -> None:
        """A range of a generation that is made of deltas."""
        await saves.base()
        await saves.delta()

        found = await saves.client.download(offset=700, limit=9000)

        assert saves.file(2)[700:9700] == found.data

    async def test_nothing_is_left_behind(self, world: World, saves: Saves) -> None:
        """A merged file is gone once it was sent, or given up."""
        await saves.base()
        await saves.delta()
        request = pb.DownloadSnapshotRequest(name=f"{saves.client.name}/snapshots/2")
        call = saves.client.stub.DownloadSnapshot(request)
        await call.read()
        call.cancel()
        await saves.client.download()

        assert [] == world.scratch

    @pytest.mark.parametrize(
        ("wanted", "refused"),
        [
            ({"offset": -1}, ("INVALID_ARGUMENT", "FIELD_INVALID")),
            ({"limit": -1}, ("INVALID_ARGUMENT", "FIELD_INVALID")),
            ({"content": 7}, ("INVALID_ARGUMENT", "FIELD_INVALID")),
            (
                {"content": SEGMENTS, "offset": 1},
                ("INVALID_ARGUMENT", "FIELD_INVALID"),
            ),
            ({"offset": 40 * 512 + 1}, ("OUT_OF_RANGE", "OFFSET_MISMATCH")),
        ],
    )
    async def test_refuses_bad_fields(
        self, saves: Saves, wanted: dict[str, Any], refused: tuple[str, str]
    ) -> None:
        """What cannot be meant is said, not guessed."""
        await saves.base()

        assert refused == await reason_of(saves.client.download(**wanted))

    @pytest.mark.parametrize("generation", [1, "latest", 2**62])
    async def test_absent(self, client: Client, generation: int | str) -> None:
        """What is not there is not found."""
        found = await reason_of(client.download(generation))

        assert ("NOT_FOUND", "SNAPSHOT_NOT_FOUND") == found


class TestRot:
    @pytest.mark.parametrize("content", [FILE, SEGMENTS])
    @pytest.mark.parametrize("index", [0, 1])
    @pytest.mark.parametrize("spoil", ["flipped", "cut", "gone"])
    async def test_rotten_segments_are_named(
        self, world: World, saves: Saves, content: int, index: int, spoil: str
    ) -> None:
        """Bytes that fail their digest are never sent as if they were good."""
        await saves.base()
        saved = await saves.delta()
        key = world.segment_key(saved, index)
        data = bytearray(world.blobs.blobs[key])
        match spoil:
            case "flipped":
                data[len(data) // 2] ^= 1
                world.blobs.blobs[key] = bytes(data)
            case "cut":
                world.blobs.blobs[key] = bytes(data[:-1])
            case "gone":
                del world.blobs.blobs[key]

        error = await refusal(saves.client.download(content=content))

        assert LOST == (error.code.name, error.reason.name)
        assert saved.segments[index].blake3.hex() == error.metadata["segment"]
        assert saved.name == error.metadata["name"]

    async def test_other_generations_still_serve(
        self, world: World, saves: Saves
    ) -> None:
        """A rotten delta costs only the generations that need it."""
        await saves.base()
        saved = await saves.delta()
        world.blobs.blobs[world.segment_key(saved)] = b"rot"

        assert saves.file(1) == (await saves.client.download(1)).data

    async def test_the_next_save_heals(self, world: World, saves: Saves) -> None:
        """A delta on a chain that has a hole is refused, so the next save is a base;
        the same bytes sent again replace the rotten ones."""
        saved = await saves.base()
        image = saves.images[-1]
        del world.blobs.blobs[world.segment_key(saved)]

        assert ("FAILED_PRECONDITION", "PARENT_MISMATCH") == await reason_of(
            saves.delta()
        )
        await saves.upload(made.base(image), image)

        assert saves.file(1) == (await saves.client.download(1)).data

    async def test_a_record_that_is_gone(self, world: World, saves: Saves) -> None:
        """An old generation whose record is lost is reported, not forgotten."""
        await saves.base()
        await saves.delta()
        await world.forget_records()
        [key] = [name for name in world.blobs.blobs if name.endswith("1.json")]
        del world.blobs.blobs[key]

        assert LOST == await reason_of(saves.client.get(1))
        assert LOST == await reason_of(saves.client.list())
