"""Whole files, as old clients send them: kept as pages if sound, else as they are."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.contract.snapshots.conftest import Saves
from tests.support.databases import database, torn
from tests.support.snapshot_errors import reason_of, refusal
from tests.support.snapshot_frames import (
    BOOT,
    INSTANCE,
    NAME,
    OTHER_INSTANCE,
    Client,
    chunks,
    file_header,
    trailer,
)
from tests.support.snapshots_world import World
from townkeeper.snapshots.v1 import resources_pb2

PAGES = resources_pb2.FORMAT_PAGES
OPAQUE = resources_pb2.FORMAT_OPAQUE
FENCED = ("FAILED_PRECONDITION", "LEASE_FENCED")
LARGE = random.Random(1).randbytes(2_500_000)


class TestContent:
    @pytest.mark.parametrize("page_size", [512, 1024, 4096, 65536])
    async def test_a_database_is_kept_as_pages(
        self, client: Client, tmp_path: Path, page_size: int
    ) -> None:
        """A sound database of any page size reads back bit for bit."""
        data = database(tmp_path / "db", page_size=page_size, rows=400)

        saved = await client.upload_file(data, session_id="ses_1")

        assert (PAGES, page_size, len(data) // page_size) == (
            saved.format,
            saved.page_size_bytes,
            saved.page_count,
        )
        assert 16 == len(saved.fingerprint)
        assert data == (await client.download()).data

    async def test_a_database_in_wal_mode(self, client: Client, tmp_path: Path) -> None:
        """A checkpointed database in WAL mode is sound by itself."""
        data = database(tmp_path / "db", journal="wal")

        saved = await client.upload_file(data)

        assert PAGES == saved.format
        assert data == (await client.download()).data

    @pytest.mark.parametrize(
        "spoil",
        [
            pytest.param(lambda data: b"", id="nothing"),
            pytest.param(lambda data: b"x", id="one byte"),
            pytest.param(lambda data: data[:100], id="a header alone"),
            pytest.param(lambda data: data[:-1], id="cut by a byte"),
            pytest.param(lambda data: data[:-4096], id="cut by a page"),
            pytest.param(lambda data: data + bytes(4096), id="a page too many"),
            pytest.param(torn, id="a torn page"),
            pytest.param(lambda data: b"x" + data[1:], id="no magic"),
            pytest.param(
                lambda data: data[:16] + b"\x00\x03" + data[18:], id="no page size"
            ),
            pytest.param(lambda data: LARGE, id="noise over several chunks"),
            pytest.param(lambda data: bytes(1 << 20), id="exactly one chunk of zeros"),
        ],
    )
    async def test_anything_else_is_kept_as_it_is(
        self, client: Client, tmp_path: Path, spoil: Callable[[bytes], bytes]
    ) -> None:
        """What is no sound database is opaque, and reads back bit for bit."""
        data = spoil(database(tmp_path / "db"))

        saved = await client.upload_file(data)

        found = await client.download()
        assert (OPAQUE, len(data), 0, b"") == (
            saved.format,
            saved.size_bytes,
            saved.page_count,
            saved.fingerprint,
        )
        assert data == found.data
        assert saved == found.header

    async def test_deltas_go_on_top_of_a_whole_file(
        self, client: Client, saves: Saves
    ) -> None:
        """A supervisor may go on from what an old client stored."""
        await saves.base()
        data = saves.file(1)
        await client.upload_file(data, epoch=1)
        saves.images.append(saves.images[-1])

        # These images are no databases, so the file above is opaque.
        found = await reason_of(saves.delta())

        assert ("FAILED_PRECONDITION", "PARENT_MISMATCH") == found
        assert 3 == (await saves.base()).generation

    async def test_segments_of_opaque_bytes(self, client: Client) -> None:
        """No run hydrates from opaque bytes."""
        await client.upload_file(b"anything")

        found = await reason_of(client.download(content=2))

        assert ("FAILED_PRECONDITION", "SNAPSHOT_OPAQUE") == found

    async def test_resumes(self, world: World, client: Client) -> None:
        """A whole file is resumed like a segment."""
        header = file_header()
        await client.send([header, *chunks(LARGE[:1_000_000])])
        header.header.write_offset = await client.persisted(header.header.upload_id)

        done = await client.send([header, *chunks(LARGE, 1_000_000), trailer(LARGE)])

        assert 1 == done.snapshot.generation
        assert LARGE == (await client.download()).data
        assert [] == world.staged
        assert [] == world.scratch


class TestOwner:
    async def test_anybody_while_no_epoch_was_seen(self, client: Client) -> None:
        """Before a supervisor ever owned the agent, an old client just writes."""
        assert 1 == (await client.upload_file(b"one")).generation
        assert 2 == (await client.upload_file(b"two")).generation
        assert (0, "") == (
            (await client.get()).snapshot.epoch,
            (await client.get()).snapshot.instance,
        )

    @pytest.mark.parametrize(
        "claim",
        [
            pytest.param({"epoch": 3}, id="the epoch alone"),
            pytest.param(
                {"epoch": 3, "instance": INSTANCE, "boot_id": BOOT}, id="the owner"
            ),
        ],
    )
    async def test_the_highest_epoch_after_that(
        self, client: Client, claim: dict[str, Any]
    ) -> None:
        """Who names the highest epoch may write."""
        await client.advance(epoch=3)

        assert 1 == (await client.upload_file(b"one", **claim)).generation

    @pytest.mark.parametrize(
        "claim",
        [
            pytest.param({}, id="none"),
            pytest.param({"epoch": 2}, id="older"),
            pytest.param({"epoch": 4}, id="higher"),
            pytest.param(
                {"epoch": 3, "instance": OTHER_INSTANCE, "boot_id": BOOT}, id="instance"
            ),
            pytest.param(
                {"epoch": 3, "instance": INSTANCE, "boot_id": "b-2"}, id="boot"
            ),
        ],
    )
    async def test_everyone_else_is_told_the_holder(
        self, client: Client, claim: dict[str, Any]
    ) -> None:
        """A late save of a dead container never replaces its successor's."""
        await client.advance(epoch=3)

        error = await refusal(client.upload_file(b"one", **claim))

        assert FENCED == (error.code.name, error.reason.name)
        assert {"epoch": "3", "holder": INSTANCE} == error.metadata

    async def test_the_match_is_checked_as_well(self, client: Client) -> None:
        """A precondition holds beside the epoch, not instead of it."""
        await client.upload_file(b"one", if_generation_match=0)

        error = await refusal(client.upload_file(b"two", if_generation_match=0))

        assert ("ABORTED", "GENERATION_MISMATCH") == (
            error.code.name,
            error.reason.name,
        )
        assert {"generation": "1"} == error.metadata

    async def test_same_bytes_of_two_agents(self, world: World, client: Client) -> None:
        """Equal content is stored once, and stays while one agent has it."""
        other = Client(client.channel, f"{NAME}-2")
        await client.upload_file(LARGE)
        await other.upload_file(LARGE)

        await client.delete("-")
        await world.parts.sweeper.sweep()

        assert LARGE == (await other.download()).data
