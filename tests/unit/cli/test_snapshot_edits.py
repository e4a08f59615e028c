"""`townkeeper snapshots`: labels, holds, deletions, and files that come in."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3
from google.protobuf.timestamp_pb2 import Timestamp

from services.chassis.errors import Reason, ServiceError
from services.cli import timeline
from services.cli.problems import Exit
from tests.unit.cli.conftest import CommandLine
from tests.unit.cli.test_snapshots import snapshot
from townkeeper.registry.v1 import registry_pb2
from townkeeper.registry.v1 import resources_pb2 as registry
from townkeeper.snapshots.v1 import resources_pb2, snapshots_pb2
from townkeeper.supervisor.v1 import supervisor_pb2

NAME = "towns/town-1/agents/mayor"


def kept(generation: int = 3, **changes: Any) -> resources_pb2.Snapshot:
    found = snapshot(generation)
    found.MergeFrom(resources_pb2.Snapshot(**changes))
    return found


class TestLabels:
    @pytest.fixture(autouse=True)
    def record(self, townkeeper: CommandLine) -> None:
        found = kept(labels={"old": "1", "todo": ""}, etag="tag")
        answers = townkeeper.services.answers
        answers["GetSnapshot"] = snapshots_pb2.GetSnapshotResponse(snapshot=found)
        answers["UpdateSnapshot"] = snapshots_pb2.UpdateSnapshotResponse(
            snapshot=kept(labels={"a": "b"}, hold=True)
        )

    def test_they_are_added_to_what_was_read(self, townkeeper: CommandLine) -> None:
        """Others stay, and what somebody labels meanwhile is not lost."""
        arguments = ["label", "mayor", "3", "a=b=c", "empty=", "--remove=todo"]

        assert 0 == townkeeper("snapshots", *arguments)

        asked = townkeeper.services.asked(snapshots_pb2.UpdateSnapshotRequest)
        expected = {"old": "1", "a": "b=c", "empty": ""}
        assert expected == dict(asked.snapshot.labels)
        assert ("tag", ["labels"]) == (asked.snapshot.etag, asked.update_mask.paths)
        assert f"{NAME}/snapshots/3: held, a=b\n" == townkeeper.out

    @pytest.mark.parametrize("words", [[], ["novalue"], ["=x"]])
    def test_what_is_no_label(self, townkeeper: CommandLine, words: list[str]) -> None:
        """Nothing is asked for then."""
        assert Exit.USAGE == townkeeper("snapshots", "label", "mayor", "3", *words)

        assert [] == townkeeper.services.requests

    @pytest.mark.parametrize(("command", "hold"), [("hold", True), ("release", False)])
    def test_a_hold(self, townkeeper: CommandLine, command: str, hold: bool) -> None:
        """Of the newest, that is the one that is newest now."""
        assert 0 == townkeeper("snapshots", command, "mayor", "0")

        asked = townkeeper.services.asked(snapshots_pb2.UpdateSnapshotRequest)
        assert (f"{NAME}/snapshots/3", hold) == (
            asked.snapshot.name,
            asked.snapshot.hold,
        )
        assert ["hold"] == asked.update_mask.paths


class TestDelete:
    def test_one_can_be_brought_back(self, townkeeper: CommandLine) -> None:
        """How and until when is said; its epoch is looked up."""
        answers = townkeeper.services.answers
        answers["GetSnapshot"] = snapshots_pb2.GetSnapshotResponse(epoch=4)
        gone = kept(purge_time=Timestamp(seconds=1_767_225_600))
        answers["DeleteSnapshot"] = snapshots_pb2.DeleteSnapshotResponse(snapshot=gone)

        assert 0 == townkeeper("snapshots", "delete", "mayor", "3")

        asked = townkeeper.services.asked(snapshots_pb2.DeleteSnapshotRequest)
        assert (f"{NAME}/snapshots/3", 4, False) == (
            asked.name,
            asked.epoch,
            asked.purge,
        )
        assert "snapshots undelete mayor 3" in townkeeper.out
        assert "2026-01-01" in townkeeper.out

    @pytest.mark.parametrize(
        ("arguments", "name"),
        [
            pytest.param(["3", "--purge", "--epoch=4"], "3", id="one"),
            pytest.param(["0", "--epoch=4"], "-", id="all"),
        ],
    )
    def test_for_good(
        self, townkeeper: CommandLine, arguments: list[str], name: str
    ) -> None:
        """That is said as well."""
        townkeeper.services.answers["DeleteSnapshot"] = (
            snapshots_pb2.DeleteSnapshotResponse(deleted_count=2)
        )

        assert 0 == townkeeper("snapshots", "delete", "mayor", *arguments)

        asked = townkeeper.services.asked(snapshots_pb2.DeleteSnapshotRequest)
        assert (f"{NAME}/snapshots/{name}", 4) == (asked.name, asked.epoch)
        assert "deleted 2" in townkeeper.out
        assert "for good" in townkeeper.out

    def test_all_want_an_epoch_of_their_own(self, townkeeper: CommandLine) -> None:
        """Nobody deletes all of a running agent without having seen who runs it."""
        townkeeper.services.answers["DeleteSnapshot"] = (
            snapshots_pb2.DeleteSnapshotResponse()
        )

        assert 0 == townkeeper("snapshots", "delete", "mayor", "0")

        asked = townkeeper.services.asked(snapshots_pb2.DeleteSnapshotRequest)
        assert not asked.HasField("epoch")

    def test_undelete(self, townkeeper: CommandLine) -> None:
        """It is named by its number."""
        townkeeper.services.answers["UndeleteSnapshot"] = (
            snapshots_pb2.UndeleteSnapshotResponse(snapshot=kept())
        )

        assert 0 == townkeeper("snapshots", "undelete", "mayor", "3")

        asked = townkeeper.services.asked(snapshots_pb2.UndeleteSnapshotRequest)
        assert f"{NAME}/snapshots/3" == asked.name


def test_reindex_tells_each_agent(townkeeper: CommandLine) -> None:
    """The town's, or one alone."""
    done = [
        snapshots_pb2.ReindexTownResponse(
            agent=NAME, generation_count=4, head=9, epoch=2
        )
    ]
    townkeeper.services.answers["ReindexTown"] = done

    assert 0 == townkeeper("snapshots", "reindex")
    asked = townkeeper.services.asked(snapshots_pb2.ReindexTownRequest)
    assert "towns/town-1" == asked.name
    assert ["mayor", "4", "9", "2"] == townkeeper.out.splitlines()[1].split()

    assert 0 == townkeeper("snapshots", "reindex", "mayor", "--json")
    asked = townkeeper.services.asked(snapshots_pb2.ReindexTownRequest)
    assert NAME == asked.name
    assert 9 == json.loads(townkeeper.out)["head"]


class TestTimeLine:
    def test_hours_and_what_stands_out(self) -> None:
        """The rest is a number."""
        start = 1_767_225_600  # 2026-01-01, midnight

        def at(seconds: int) -> Timestamp:
            return Timestamp(seconds=start + seconds)

        found = [
            kept(12, create_time=at(90_000)),
            kept(11, create_time=at(7_300), delete_time=at(1), purge_time=at(604_800)),
            kept(10, create_time=at(7_260), hold=True, labels={"b": "", "a": "x"}),
            kept(9, create_time=at(7_200)),
            kept(8, create_time=at(60), format=resources_pb2.FORMAT_OPAQUE),
        ]

        assert [
            "2026-01-02",
            "  01:00     12  1 saved, 48.0 KiB",
            "            12  01:00:00  48.0 KiB  newest",
            "2026-01-01",
            "  02:00   9-11  3 saved, 44.0 KiB",
            "            11  02:01:40  44.0 KiB  deleted, gone after 2026-01-08 00:00Z",
            "            10  02:01:00  40.0 KiB  held  a=x  b",
            "  00:00      8  1 saved, 32.0 KiB",
            "             8  00:01:00  32.0 KiB  opaque",
        ] == list(timeline.lines(found))

    def test_of_nothing(self, townkeeper: CommandLine) -> None:
        """Nothing is shown, deleted ones are asked for on request."""
        townkeeper.services.answers["ListSnapshots"] = (
            snapshots_pb2.ListSnapshotsResponse()
        )

        assert 0 == townkeeper("snapshots", "list", "m", "--time-line", "--deleted")

        assert "" == townkeeper.out
        asked = townkeeper.services.asked(snapshots_pb2.ListSnapshotsRequest)
        assert asked.show_deleted


def database(file: Path) -> Path:
    with closing(sqlite3.connect(file)) as made:
        made.execute("create table t (x)")
        made.commit()
    return file


class TestImport:
    @pytest.fixture(autouse=True)
    def services(self, townkeeper: CommandLine) -> None:
        """An agent that is stopped, with a saved state."""
        answers = townkeeper.services.answers
        head = kept(3, runtime="kilo", runtime_version="7.7.9", session_id="ses")
        answers["GetAgent"] = registry_pb2.GetAgentResponse()
        answers["GetSnapshot"] = snapshots_pb2.GetSnapshotResponse(
            snapshot=head, epoch=4
        )
        answers["UploadSnapshot"] = snapshots_pb2.UploadSnapshotResponse(
            snapshot=kept(4)
        )

    def running(self, townkeeper: CommandLine) -> None:
        lease = registry.Lease(live=True)
        townkeeper.services.answers["GetAgent"] = registry_pb2.GetAgentResponse(
            agent=registry.Agent(lease=lease)
        )

    def test_goes_on_top_of_the_newest(
        self, townkeeper: CommandLine, tmp_path: Path
    ) -> None:
        """Under its epoch and its session; every byte is there, with its digest."""
        file = database(tmp_path / "in.db")

        assert 0 == townkeeper("snapshots", "import", "in.db", "mayor")

        frames = [
            one
            for one in townkeeper.services.requests
            if isinstance(one, snapshots_pb2.UploadSnapshotRequest)
        ]
        header = frames[0].header
        assert (4, 3, "ses", "kilo") == (
            header.epoch,
            header.if_generation_match,
            header.session_id,
            header.runtime,
        )
        data = b"".join(frame.chunk.data for frame in frames)
        assert file.read_bytes() == data
        assert blake3(data).digest() == frames[-1].trailer.blake3
        assert "as generation 4" in townkeeper.out

    def test_the_first_one(self, townkeeper: CommandLine, tmp_path: Path) -> None:
        """Of an agent that was never seen: nothing is expected, nothing fenced."""
        database(tmp_path / "in.db")
        absent = ServiceError(Reason.SNAPSHOT_NOT_FOUND, "cannot find it")
        townkeeper.services.answers["GetSnapshot"] = absent
        townkeeper.services.answers["GetAgent"] = ServiceError(
            Reason.AGENT_NOT_FOUND, "cannot find it"
        )

        assert 0 == townkeeper("snapshots", "import", "in.db", "mayor")

        header = next(
            one.header
            for one in townkeeper.services.requests
            if isinstance(one, snapshots_pb2.UploadSnapshotRequest)
        )
        assert not header.HasField("epoch")
        assert (True, 0) == (
            header.HasField("if_generation_match"),
            header.if_generation_match,
        )

    def test_a_running_agent_is_left_alone(
        self, townkeeper: CommandLine, tmp_path: Path
    ) -> None:
        """It would go on with what it has."""
        database(tmp_path / "in.db")
        self.running(townkeeper)

        assert Exit.REFUSED == townkeeper("snapshots", "import", "in.db", "mayor")

        assert "agents stop mayor" in townkeeper.err
        [asked] = townkeeper.services.requests
        assert isinstance(asked, registry_pb2.GetAgentRequest)

    def test_a_claim_in_between(self, townkeeper: CommandLine, tmp_path: Path) -> None:
        """Whoever started it meanwhile is not written over."""
        database(tmp_path / "in.db")
        townkeeper.services.answers["UploadSnapshot"] = ServiceError(
            Reason.LEASE_FENCED, "cannot write", epoch=5, holder="x"
        )
        stopped = registry_pb2.GetAgentResponse()
        live = registry.Agent(lease=registry.Lease(live=True))
        townkeeper.services.answers["GetAgent"] = [
            stopped,
            stopped,
            registry_pb2.GetAgentResponse(agent=live),
        ]

        assert Exit.REFUSED == townkeeper("snapshots", "import", "in.db", "mayor")

        assert "started it at that moment" in townkeeper.err

    def test_it_is_stopped_on_request(
        self, townkeeper: CommandLine, tmp_path: Path
    ) -> None:
        """And started again, also when the import failed."""
        database(tmp_path / "in.db")
        stopped = registry_pb2.GetAgentResponse()
        live = registry.Agent(lease=registry.Lease(live=True))
        answers = townkeeper.services.answers
        answers["GetAgent"] = [registry_pb2.GetAgentResponse(agent=live), stopped]
        answers["StopAgent"] = supervisor_pb2.StopAgentResponse()
        answers["StartAgent"] = supervisor_pb2.StartAgentResponse()
        answers["UploadSnapshot"] = ServiceError(Reason.STORAGE_FULL, "cannot store it")

        assert 1 == townkeeper("snapshots", "import", "in.db", "mayor", "--stop")

        names = [type(one).__name__ for one in townkeeper.services.requests]
        assert names.index("StopAgentRequest") < names.index("GetSnapshotRequest")
        assert "StartAgentRequest" == names[-1]

    @pytest.mark.parametrize(
        "content",
        [
            pytest.param(b"", id="empty"),
            pytest.param(b"no database", id="text"),
            pytest.param(b"SQLite format 3\0" + bytes(4080), id="header alone"),
        ],
    )
    def test_what_is_no_database(
        self, townkeeper: CommandLine, tmp_path: Path, content: bytes
    ) -> None:
        """It is sent on request only."""
        (tmp_path / "in.db").write_bytes(content)

        assert Exit.USAGE == townkeeper("snapshots", "import", "in.db", "mayor")
        assert "--opaque" in townkeeper.err
        assert [] == townkeeper.services.requests

        assert 0 == townkeeper("snapshots", "import", "in.db", "mayor", "--opaque")

    def test_a_damaged_database(self, townkeeper: CommandLine, tmp_path: Path) -> None:
        """Every page is looked at."""
        file = tmp_path / "in.db"
        with closing(sqlite3.connect(file)) as made:
            made.execute("create table t (x)")
            made.executemany("insert into t values (?)", [("x" * 500,)] * 200)
            made.commit()
        data = bytearray(file.read_bytes())
        data[8192:8292] = b"\xff" * 100
        file.write_bytes(data)

        assert Exit.USAGE == townkeeper("snapshots", "import", "in.db", "mayor")

    def test_changes_beside_it(self, townkeeper: CommandLine, tmp_path: Path) -> None:
        """What a program has not brought into the file yet would be lost."""
        database(tmp_path / "in.db")
        (tmp_path / "in.db-wal").write_bytes(b"x")

        assert 1 == townkeeper("snapshots", "import", "in.db", "mayor")

        assert "in.db-wal" in townkeeper.err
        assert [] == townkeeper.services.requests
