"""An agent's process has a token of its own, for one run, kept fresh in a file."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest

from services.chassis.channels import StaticToken, open_sync_channel
from services.chassis.errors import ServiceError
from tests.support import notes_agent
from tests.support.plane import PlaneProcess
from tests.support.waiting import wait_until_sync
from townkeeper.registry.v1 import registry_pb2
from townkeeper.registry.v1.registry_pb2_grpc import RegistryServiceStub

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]


def environ_of(pid: int) -> dict[str, str]:
    raw = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    pairs = (each.decode().partition("=") for each in raw if each)
    return {name: value for name, _, value in pairs}


def said(plane: PlaneProcess, token: str, agent: str) -> str:
    """What the registry says to a token that asks for an agent; empty: the record."""
    with open_sync_channel(plane.endpoints.registry, StaticToken(token)) as channel:
        request = registry_pb2.GetAgentRequest(name=plane.agent_name(agent))
        try:
            RegistryServiceStub(channel).GetAgent(request)
        except grpc.RpcError as error:
            return ServiceError.from_rpc(error).reason.name
    return ""


def test_a_run_has_a_token_until_it_ends(plane: PlaneProcess) -> None:
    """It reaches the agent alone; a killed container's is taken back by the next
    run's, a stopped run's at once. The container's own token is nowhere."""
    notes_agent.start(plane, "ada")
    notes_agent.start(plane, "bob")
    first = environ_of(plane.wait_running("ada").pid)
    token = Path(first["TOWNKEEPER_TOKEN_FILE"]).read_text()

    assert first["GASTOWN_SESSION_TOKEN"] == token
    assert "GASTOWN_CONTAINER_TOKEN" not in first
    assert "" == said(plane, token, "ada")
    assert "AGENT_FOREIGN" == said(plane, token, "bob")

    plane.kill_container()
    wait_until_sync(lambda: said(plane, token, "ada") == "TOKEN_REVOKED", limit_s=30)
    second = environ_of(plane.wait_running("ada").pid)["GASTOWN_SESSION_TOKEN"]
    assert "" == said(plane, second, "ada")

    plane.run("agents", "stop", "ada")
    wait_until_sync(lambda: said(plane, second, "ada") == "TOKEN_REVOKED", limit_s=10)
    assert not Path(first["TOWNKEEPER_TOKEN_FILE"]).exists()
