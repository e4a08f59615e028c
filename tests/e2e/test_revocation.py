"""A token is taken back: every service refuses it, over gRPC and HTTP."""

from __future__ import annotations

from collections.abc import Callable

import grpc
import pytest

from services.chassis.channels import StaticToken, open_sync_channel
from services.chassis.errors import ServiceError
from tests.support.plane import PlaneProcess
from tests.support.waiting import wait_until_sync
from townkeeper.registry.v1 import registry_pb2
from townkeeper.registry.v1.registry_pb2_grpc import RegistryServiceStub
from townkeeper.snapshots.v1 import snapshots_pb2
from townkeeper.snapshots.v1.snapshots_pb2_grpc import SnapshotServiceStub
from townkeeper.supervisor.v1 import supervisor_pb2
from townkeeper.supervisor.v1.supervisor_pb2_grpc import SupervisorServiceStub

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]


def everywhere(plane: PlaneProcess, token: str) -> dict[str, str]:
    """What each service says to a token; empty when it lets it in."""
    at, source = plane.endpoints, StaticToken(token)
    town = f"towns/{plane.town}"
    with (
        open_sync_channel(at.registry, source) as registry,
        open_sync_channel(at.snapshots, source) as snapshots,
        open_sync_channel(at.supervisor, source) as supervisor,
    ):
        said = {
            "registry": _reason(
                lambda: RegistryServiceStub(registry).ListAgents(
                    registry_pb2.ListAgentsRequest(parent=town)
                )
            ),
            "snapshots": _reason(
                lambda: SnapshotServiceStub(snapshots).ListSnapshots(
                    snapshots_pb2.ListSnapshotsRequest(parent=f"{town}/agents/ada")
                )
            ),
            "supervisor": _reason(
                lambda: SupervisorServiceStub(supervisor).ListRuns(
                    supervisor_pb2.ListRunsRequest(parent=town)
                )
            ),
        }
    answer = plane.http(None).get(
        f"/api/towns/{plane.town}/drain-status",
        headers={"authorization": f"Bearer {token}"},
    )
    said["gateway"] = answer.json().get("error", "")
    return said


def _reason(call: Callable[[], object]) -> str:
    try:
        call()
    except grpc.RpcError as error:
        return ServiceError.from_rpc(error).reason.name
    return ""


REVOKED = {
    "registry": "TOKEN_REVOKED",
    "snapshots": "TOKEN_REVOKED",
    "supervisor": "TOKEN_REVOKED",
    "gateway": "Token revoked",
}
LET_IN = dict.fromkeys(REVOKED, "")


def test_one_token_dies_everywhere(shared_plane: PlaneProcess) -> None:
    """Given whole to the command; its neighbours live, and it stays dead when all
    services were killed and are back."""
    plane = shared_plane
    token, other = plane.token("operator"), plane.token("operator")
    assert LET_IN == everywhere(plane, token)

    plane.run("token", "revoke", token)

    wait_until_sync(lambda: everywhere(plane, token) == REVOKED, limit_s=10)
    assert LET_IN == everywhere(plane, other)
    plane.kill_everything()
    plane.start()
    assert REVOKED == everywhere(plane, token)
    assert LET_IN == everywhere(plane, other)


def test_all_tokens_of_a_town(plane: PlaneProcess) -> None:
    """People's clients need new ones, which are good at once."""
    old = plane.token("container")

    plane.run("token", "revoke", "--all")

    wait_until_sync(lambda: everywhere(plane, old) == REVOKED, limit_s=10)
    wait_until_sync(
        lambda: everywhere(plane, plane.token("container")) == LET_IN, limit_s=10
    )
