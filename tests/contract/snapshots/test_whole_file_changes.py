"""Whole files sent again: only what differs is stored, and everything reads back."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.chassis.errors import Reason, ServiceError
from services.segments.chain import ChainBuilder
from services.snapshots import examination
from services.snapshots.file_changes import encode_changes
from services.snapshots.generations import DELTAS_MAX
from services.snapshots.segment_files import encode_file
from tests.support import segments as made
from tests.support.databases import database
from tests.support.snapshot_errors import reason_of
from tests.support.snapshot_frames import Client
from tests.support.snapshots_world import World
from townkeeper.snapshots.v1 import resources_pb2

BASE = resources_pb2.Segment.KIND_BASE
DELTA = resources_pb2.Segment.KIND_DELTA


def changed(path: Path, sql: str) -> bytes:
    """The database after a statement."""
    connection = apsw.Connection(str(path))
    connection.execute(sql)
    connection.close()
    return path.read_bytes()


def pages_of(data: bytes) -> made.Image:
    return made.pieces(data, 4096)


@pytest.mark.parametrize(
    "sql",
    [
        pytest.param("UPDATE t SET body = 'x' WHERE id = 1", id="a row"),
        pytest.param("INSERT INTO t (body) SELECT body FROM t LIMIT 9", id="grown"),
        pytest.param("DELETE FROM t WHERE id > 390", id="rows gone"),
        pytest.param("SELECT 1", id="nothing"),
    ],
)
async def test_a_file_sent_again_costs_what_differs(
    client: Client, tmp_path: Path, sql: str
) -> None:
    """An old client gets cheap history, and each generation back as it was."""
    path = tmp_path / "db"
    first = database(path, rows=400)
    await client.upload_file(first)
    second = changed(path, sql)

    saved = await client.upload_file(second)

    assert [BASE, DELTA] == [segment.kind for segment in saved.segments]
    assert len(made.changes(pages_of(first), pages_of(second))) == (
        saved.segments[-1].page_count
    )
    assert second == (await client.download()).data
    assert first == (await client.download("1")).data


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(lambda path: database(path, rows=9), id="another database"),
        pytest.param(lambda path: database(path, page_size=1024), id="page size"),
        pytest.param(lambda path: random.Random(1).randbytes(9999), id="no database"),
    ],
)
async def test_what_has_little_in_common_is_stored_whole(
    client: Client, tmp_path: Path, other: Callable[[Path], bytes]
) -> None:
    """A delta of most pages would only make the chain longer."""
    await client.upload_file(database(tmp_path / "db", rows=400))
    data = other(tmp_path / "other")

    saved = await client.upload_file(data)

    assert 1 == len(saved.segments)
    assert data == (await client.download()).data


async def test_after_opaque_bytes_comes_a_base(client: Client, tmp_path: Path) -> None:
    """There are no pages to compare with."""
    await client.upload_file(b"anything")

    saved = await client.upload_file(database(tmp_path / "db"))

    assert [BASE] == [segment.kind for segment in saved.segments]


async def test_a_rotten_head_is_healed_by_a_base(
    world: World, client: Client, tmp_path: Path
) -> None:
    """What cannot be trusted is not built upon."""
    path = tmp_path / "db"
    saved = await client.upload_file(database(path, rows=400))
    stored = bytearray(world.blobs.blobs[world.segment_key(saved)])
    stored[5_000] ^= 1
    world.blobs.blobs[world.segment_key(saved)] = bytes(stored)
    data = changed(path, "UPDATE t SET body = 'x' WHERE id = 1")

    healed = await client.upload_file(data)

    assert [BASE] == [segment.kind for segment in healed.segments]
    assert data == (await client.download()).data


async def test_everything_is_deleted_while_it_is_packed(
    world: World, client: Client, tmp_path: Path
) -> None:
    """Its delta rested on what is gone: acknowledged is only what can be read."""
    path = tmp_path / "db"
    await client.upload_file(database(path, rows=400))
    data = changed(path, "UPDATE t SET body = 'x' WHERE id = 1")
    world.blobs.pause.at("publish")
    upload = asyncio.create_task(client.upload_file(data))
    await world.blobs.pause.arrived()
    await client.delete("-")
    await world.parts.sweeper.sweep()

    world.blobs.pause.go_on()

    assert [BASE] == [segment.kind for segment in (await upload).segments]
    assert data == (await client.download()).data


async def test_a_full_disk_is_named(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is no fault of the chain, which a base would heal."""

    def full(source: Path, target: Path, chain: list[Path]) -> None:
        target.write_bytes(b"half a segment")
        raise ServiceError(Reason.STORAGE_FULL, "cannot write the segment")

    path = tmp_path / "db"
    await client.upload_file(database(path, rows=400))
    monkeypatch.setattr(examination, "encode_changes", full)

    found = await reason_of(client.upload_file(path.read_bytes()))

    assert ("RESOURCE_EXHAUSTED", "STORAGE_FULL") == found


async def test_a_full_chain_ends_with_a_base(client: Client, tmp_path: Path) -> None:
    """As for a supervisor; compaction, which is off here, comes long before."""
    path = tmp_path / "db"
    await client.upload_file(database(path, rows=400))
    for count in range(DELTAS_MAX):
        data = changed(path, f"UPDATE t SET body = 'x{count}' WHERE id = 1")
        saved = await client.upload_file(data)
    assert 1 + DELTAS_MAX == len(saved.segments)

    saved = await client.upload_file(changed(path, "DELETE FROM t WHERE id = 1"))

    assert [BASE] == [segment.kind for segment in saved.segments]


async def test_a_supervisor_goes_on_from_it(client: Client, tmp_path: Path) -> None:
    """Its fingerprint is that of the database, whoever made the delta."""
    path = tmp_path / "db"
    await client.upload_file(database(path, rows=400))
    data = changed(path, "UPDATE t SET body = 'x' WHERE id = 1")
    saved = await client.upload_file(data)
    pages = pages_of(data)
    assert bytes(made.fingerprint(pages)) == saved.fingerprint
    after = made.edited(pages, [3, 7], b"v3")
    await client.advance()

    await client.upload(
        made.delta(pages, after), bytes(made.fingerprint(after)), if_generation_match=2
    )

    assert b"".join(after) == (await client.download()).data


@given(data=st.data())
def test_any_two_files(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Applied to the first, the changes give the second; or a base was better."""
    folder = tmp_path_factory.mktemp("files")
    pages = st.integers(0, 2).map(lambda fill: bytes([fill]) * 512)
    first, second = (
        data.draw(st.lists(pages, min_size=1, max_size=200), label=name)
        for name in ("first", "second")
    )
    for name, image in (("first", first), ("second", second)):
        (folder / name).write_bytes(b"".join(image))
    encode_file(folder / "first", folder / "base", 512)

    added = encode_changes(folder / "second", folder / "delta", [folder / "base"])

    differing = sum(a != b for a, b in zip(first, second, strict=False))
    differing += max(0, len(second) - len(first))
    assert (added is None) == (differing > len(second) / 2)
    if added is not None:
        assert differing == added.segment.page_count
        assert bytes(made.fingerprint(second)) == added.fingerprint
        with ChainBuilder(folder / "built") as builder:
            for name in ("base", "delta"):
                builder.add([(folder / name).read_bytes()])
            builder.finish()
        assert b"".join(second) == (folder / "built").read_bytes()
