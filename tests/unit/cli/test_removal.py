"""`townkeeper agents remove`: all of an agent, or nothing."""

from __future__ import annotations

import pytest

from services.chassis.errors import Reason, ServiceError
from services.cli.problems import Exit
from tests.unit.cli.conftest import CommandLine
from townkeeper.registry.v1 import registry_pb2
from townkeeper.snapshots.v1 import resources_pb2, snapshots_pb2


@pytest.fixture(autouse=True)
def nothing_held(townkeeper: CommandLine) -> None:
    townkeeper.services.answers["ListSnapshots"] = snapshots_pb2.ListSnapshotsResponse()


def test_remove_of_what_is_held(townkeeper: CommandLine) -> None:
    """Nothing is gone; how to release it is said, wherever in the history it is."""
    held = resources_pb2.Snapshot(generation=3, hold=True)
    townkeeper.services.answers["ListSnapshots"] = [
        snapshots_pb2.ListSnapshotsResponse(
            snapshots=[resources_pb2.Snapshot(generation=4)], next_page_token="more"
        ),
        snapshots_pb2.ListSnapshotsResponse(snapshots=[held]),
    ]

    assert Exit.REFUSED == townkeeper("agents", "remove", "mayor")

    assert "snapshots release mayor 3" in townkeeper.err
    kinds = {type(one) for one in townkeeper.services.requests}
    assert registry_pb2.DeregisterAgentRequest not in kinds
    assert {snapshots_pb2.ListSnapshotsRequest} == kinds


def test_remove_goes_on_where_it_was_cut_off(townkeeper: CommandLine) -> None:
    """The record is gone already, what was saved is not."""
    townkeeper.services.answers |= {
        "DeregisterAgent": ServiceError(Reason.AGENT_NOT_FOUND, "no such agent"),
        "GetSnapshot": snapshots_pb2.GetSnapshotResponse(epoch=7),
        "DeleteSnapshot": snapshots_pb2.DeleteSnapshotResponse(deleted_count=3),
    }

    assert 0 == townkeeper("agents", "remove", "mayor")

    asked = townkeeper.services.asked(snapshots_pb2.DeleteSnapshotRequest)
    assert ("-", 7) == (asked.name.rpartition("/")[2], asked.epoch)
    assert "3 generations" in townkeeper.out


def test_remove_of_nobody(townkeeper: CommandLine) -> None:
    """A misspelt name is not taken for a removal."""
    townkeeper.services.answers |= {
        "DeregisterAgent": ServiceError(Reason.AGENT_NOT_FOUND, "no such agent"),
        "GetSnapshot": ServiceError(Reason.SNAPSHOT_NOT_FOUND, "no snapshot"),
    }

    assert 3 == townkeeper("agents", "remove", "mayor")

    assert "no such agent" in townkeeper.err


def test_remove_of_an_agent_that_runs(townkeeper: CommandLine) -> None:
    """Nothing of it is deleted."""
    townkeeper.services.answers["DeregisterAgent"] = ServiceError(
        Reason.LEASE_HELD, "stop it first"
    )

    assert 4 == townkeeper("agents", "remove", "mayor")

    assert not [
        one
        for one in townkeeper.services.requests
        if isinstance(one, snapshots_pb2.DeleteSnapshotRequest)
    ]
