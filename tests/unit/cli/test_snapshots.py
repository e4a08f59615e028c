"""`townkeeper snapshots`: listing, and exports that are whole or not there."""

import json
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

from services.chassis.errors import Reason, ServiceError
from services.cli.export import write_file
from services.cli.problems import Problem
from services.cli.restore_plan import (
    BUILD_BYTES_PER_S,
    PACK_BYTES_PER_S,
    Sample,
    estimate_s,
)
from tests.unit.cli.conftest import CommandLine
from townkeeper.snapshots.v1 import resources_pb2, snapshots_pb2
from townkeeper.supervisor.v1 import supervisor_pb2

Frame = snapshots_pb2.DownloadSnapshotResponse
CONTENT = b"SQLite format 3\0" + bytes(range(256))


def snapshot(generation: int) -> resources_pb2.Snapshot:
    return resources_pb2.Snapshot(
        name=f"towns/town-1/agents/mayor/snapshots/{generation}",
        generation=generation,
        format=resources_pb2.FORMAT_PAGES,
        size_bytes=4096 * generation,
        segments=[resources_pb2.Segment(size_bytes=10)],
        fingerprint=b"\x01" * 16,
    )


def chunk(offset: int, data: bytes, *, crc32: int | None = None) -> Frame:
    crc = zlib.crc32(data) if crc32 is None else crc32
    return Frame(chunk=snapshots_pb2.Chunk(offset=offset, data=data, crc32=crc))


def trailer(content: bytes = CONTENT, *, size_bytes: int | None = None) -> Frame:
    size = len(content) if size_bytes is None else size_bytes
    digest = blake3(content).digest()
    return Frame(trailer=snapshots_pb2.DownloadTrailer(size_bytes=size, blake3=digest))


HEADER = Frame(header=snapshot(3))
WHOLE = [HEADER, chunk(0, CONTENT[:100]), chunk(100, CONTENT[100:]), trailer()]


def test_list_stops_at_the_limit(townkeeper: CommandLine) -> None:
    """No more is asked for than is wanted."""
    townkeeper.services.answers["ListSnapshots"] = [
        snapshots_pb2.ListSnapshotsResponse(
            snapshots=[snapshot(3), snapshot(2)], next_page_token="more"
        ),
        snapshots_pb2.ListSnapshotsResponse(
            snapshots=[snapshot(1)], next_page_token="more"
        ),
    ]

    assert 0 == townkeeper("snapshots", "list", "mayor", "--limit=3", "--json")

    assert [3, 2, 1] == [one["generation"] for one in json.loads(townkeeper.out)]
    asked = townkeeper.services.asked(snapshots_pb2.ListSnapshotsRequest)
    assert (1, "more") == (asked.page_size, asked.page_token)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        pytest.param([], "latest", id="newest"),
        pytest.param(["12"], "12", id="by number"),
    ],
)
def test_show_names_one(
    townkeeper: CommandLine, arguments: list[str], name: str
) -> None:
    """A generation is shown by its number; the newest without one."""
    townkeeper.services.answers["GetSnapshot"] = snapshots_pb2.GetSnapshotResponse(
        snapshot=snapshot(3)
    )

    assert 0 == townkeeper("snapshots", "show", "mayor", *arguments)

    asked = townkeeper.services.asked(snapshots_pb2.GetSnapshotRequest)
    assert asked.name.endswith(f"/snapshots/{name}")
    assert "01" * 16 in townkeeper.out


def test_export_writes_the_bytes(townkeeper: CommandLine, tmp_path: Path) -> None:
    """An export is the file, for its owner only."""
    townkeeper.services.answers["DownloadSnapshot"] = WHOLE

    assert 0 == townkeeper("snapshots", "export", "mayor", "out.db")

    out = tmp_path / "out.db"
    assert CONTENT == out.read_bytes()
    assert 0o600 == out.stat().st_mode & 0o777
    assert [out] == list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "frames",
    [
        pytest.param([], id="nothing"),
        pytest.param(WHOLE[:-1], id="no trailer"),
        pytest.param([HEADER, chunk(0, CONTENT, crc32=1), trailer()], id="bad crc"),
        pytest.param([HEADER, chunk(1, CONTENT), trailer()], id="gap"),
        pytest.param([HEADER, WHOLE[2], WHOLE[1], trailer()], id="swapped"),
        pytest.param(
            [HEADER, chunk(0, CONTENT), trailer(CONTENT + b"x")], id="other digest"
        ),
        pytest.param(
            [HEADER, chunk(0, CONTENT), trailer(size_bytes=1)], id="other size"
        ),
    ],
)
def test_a_damaged_export_leaves_nothing(
    townkeeper: CommandLine, tmp_path: Path, frames: Sequence[Frame]
) -> None:
    """Whatever is wrong with the stream, there is no file that looks whole."""
    townkeeper.services.answers["DownloadSnapshot"] = frames

    assert 1 == townkeeper("snapshots", "export", "mayor", "out.db")

    assert "damaged" in townkeeper.err
    assert [] == list(tmp_path.iterdir())


def test_export_does_not_overwrite(townkeeper: CommandLine, tmp_path: Path) -> None:
    """A file that is there stays as it was, unless told otherwise."""
    out = tmp_path / "out.db"
    out.write_bytes(b"precious")
    townkeeper.services.answers["DownloadSnapshot"] = WHOLE

    assert 1 == townkeeper("snapshots", "export", "mayor", "out.db")
    assert b"precious" == out.read_bytes()
    assert [] == townkeeper.services.requests

    assert 0 == townkeeper("snapshots", "export", "mayor", "out.db", "--force")
    assert CONTENT == out.read_bytes()


def test_a_file_that_appears_meanwhile_stays(tmp_path: Path) -> None:
    """Two exports to one name: the second one finds the first one's file."""
    out = tmp_path / "out.db"

    def frames() -> Iterator[Frame]:
        yield from WHOLE
        out.write_bytes(b"precious")

    with pytest.raises(Problem, match="cannot overwrite"):
        write_file(frames(), out, force=False)

    assert b"precious" == out.read_bytes()
    assert [out] == list(tmp_path.iterdir())


def test_a_refused_export_keeps_the_file_it_would_replace(
    townkeeper: CommandLine, tmp_path: Path
) -> None:
    """`--force` replaces a file with a whole one only."""
    out = tmp_path / "out.db"
    out.write_bytes(b"precious")
    townkeeper.services.answers["DownloadSnapshot"] = ServiceError(
        Reason.SNAPSHOT_NOT_FOUND, "cannot find it: save first"
    )

    assert 3 == townkeeper("snapshots", "export", "mayor", "out.db", "--force")

    assert b"precious" == out.read_bytes()
    assert [out] == list(tmp_path.iterdir())


def test_export_into_a_folder_that_is_not_there(townkeeper: CommandLine) -> None:
    """A place that cannot be written to is named."""
    townkeeper.services.answers["DownloadSnapshot"] = WHOLE

    assert 1 == townkeeper("snapshots", "export", "mayor", "none/out.db")

    assert "none/out.db" in townkeeper.err


def test_restore_tells_both_numbers(townkeeper: CommandLine) -> None:
    """What was replaced is kept, and its number said."""
    townkeeper.services.answers["RestoreAgent"] = supervisor_pb2.RestoreAgentResponse(
        generation=9, replaced_generation=8
    )

    assert 0 == townkeeper("snapshots", "restore", "mayor", "3")

    asked = townkeeper.services.asked(supervisor_pb2.RestoreAgentRequest)
    assert "towns/town-1/agents/mayor/snapshots/3" == asked.name
    assert "restored 3 as generation 9; what was there is kept as 8\n" == townkeeper.out


def test_a_restore_can_be_planned(townkeeper: CommandLine) -> None:
    """What would be read and written is said, and nothing is done."""
    townkeeper.services.answers["GetSnapshot"] = snapshots_pb2.GetSnapshotResponse(
        snapshot=snapshot(3)
    )

    townkeeper.services.answers["DownloadSnapshot"] = WHOLE

    assert 0 == townkeeper("snapshots", "restore", "mayor", "3", "--dry-run", "--json")

    plan = json.loads(townkeeper.out)
    assert 0 <= plan["seconds"] < 60
    assert (1, 10, 3 * 4096) == (
        plan["segments"],
        plan["readBytes"],
        plan["writtenBytes"],
    )
    names = {type(one).__name__ for one in townkeeper.services.requests}
    assert {"GetSnapshotRequest", "DownloadSnapshotRequest"} == names


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        pytest.param({"delete_time": {"seconds": 1}}, "undelete", id="deleted"),
        pytest.param({"format": resources_pb2.FORMAT_OPAQUE}, "database", id="opaque"),
    ],
)
def test_what_cannot_be_restored_is_not_planned(
    townkeeper: CommandLine, changes: dict[str, Any], why: str
) -> None:
    """The plan says what the restore would say."""
    found = snapshot(3)
    found.MergeFrom(resources_pb2.Snapshot(**changes))
    townkeeper.services.answers["GetSnapshot"] = snapshots_pb2.GetSnapshotResponse(
        snapshot=found
    )

    assert 1 == townkeeper("snapshots", "restore", "mayor", "3", "--dry-run")

    assert why in townkeeper.err


def test_the_time_of_a_restore_is_all_its_parts() -> None:
    """Proof and stream as measured, then building and saving what comes out."""
    sample = Sample(proof_s=2.0, size_bytes=10 << 20, stream_s=0.5)

    read_s = 2.0 + 1.0
    written = BUILD_BYTES_PER_S
    work_s = 1.0 + BUILD_BYTES_PER_S / PACK_BYTES_PER_S
    assert read_s == sample.seconds(20 << 20)
    assert pytest.approx(read_s + work_s) == estimate_s(sample, 20 << 20, written)
    assert 0 == Sample(0.0, 0, 0.0).seconds(100)


@pytest.mark.parametrize(
    ("command", "request_type"),
    [
        ("show", snapshots_pb2.GetSnapshotRequest),
        ("export", snapshots_pb2.DownloadSnapshotRequest),
    ],
)
def test_by_time(
    townkeeper: CommandLine, command: str, request_type: type[Any]
) -> None:
    """A time without a zone is UTC, as all times that are shown."""
    townkeeper.services.answers["GetSnapshot"] = snapshots_pb2.GetSnapshotResponse(
        snapshot=snapshot(3)
    )
    townkeeper.services.answers["DownloadSnapshot"] = WHOLE
    file = ["out.db"] if command == "export" else []

    at = "--at=2026-01-31T12:00:00"
    assert 0 == townkeeper("snapshots", command, "mayor", *file, at)

    asked = townkeeper.services.asked(request_type)
    assert "2026-01-31T12:00:00Z" == asked.read_time.ToJsonString()
    assert asked.name.endswith("/snapshots/latest")


def test_verify_says_that_it_is_sound(townkeeper: CommandLine) -> None:
    """What was read is told; damage ends with a failure."""
    answers = townkeeper.services.answers
    answers["VerifySnapshot"] = snapshots_pb2.VerifySnapshotResponse(read_bytes=2048)

    assert 0 == townkeeper("snapshots", "verify", "mayor", "3")
    assert "is sound" in townkeeper.out

    answers["VerifySnapshot"] = ServiceError(Reason.SNAPSHOT_CORRUPT, "cannot read it")
    assert 1 == townkeeper("snapshots", "verify", "mayor", "3")


def test_fork_names_the_newest_by_its_number(townkeeper: CommandLine) -> None:
    """The generation that was newest when the command began is the one that is
    forked."""
    answers = townkeeper.services.answers
    answers["GetSnapshot"] = snapshots_pb2.GetSnapshotResponse(snapshot=snapshot(3))
    answers["ForkSnapshot"] = snapshots_pb2.ForkSnapshotResponse(snapshot=snapshot(1))

    assert 0 == townkeeper("snapshots", "fork", "mayor", "copy")

    asked = townkeeper.services.asked(snapshots_pb2.ForkSnapshotRequest)
    assert asked.name.endswith("agents/mayor/snapshots/3")
    assert asked.target.endswith("agents/copy")
    assert asked.request_id
