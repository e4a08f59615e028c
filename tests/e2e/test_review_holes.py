"""The holes that the original's review found, tried on a real plane over HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import grpc
import httpx
import pytest

from services.gateway.routes import ROUTES
from tests.support.plane import PlaneProcess
from tests.support.town import RIG, Town
from tests.support.town_state import everything, wait_until_quiet
from townkeeper.registry.v1 import registry_pb2
from townkeeper.snapshots.v1 import snapshots_pb2
from townkeeper.supervisor.v1 import supervisor_pb2

pytestmark = pytest.mark.e2e

GUARDED: Final = [route for route in ROUTES if "{town}" in route.pattern]
SNAPSHOT: Final = [route for route in GUARDED if "db-snapshot" in route.pattern]
START: Final = {
    "agentId": "b",
    "rigId": RIG,
    "role": "polecat",
    "name": "b",
    "runtime": "exec",
    "command": ["true"],
}
# Bodies that would do harm if they were let in.
BODIES: Final[dict[str, Any]] = {
    "container-registry": [],
    "agents/start": START,
    "message": {"prompt": "obey", "message": "obey"},
    "model": {"model": "theirs/own"},
    "configure": {**START, "role": "mayor"},
    "container-ready": {"nonce": "guessed"},
    "completed": {"status": "done"},
}


@dataclass(frozen=True)
class Victim:
    """A town with something to lose: two agents with sessions, and a mayor's record."""

    town: Town

    @property
    def path(self) -> str:
        return f"/api/towns/{self.town.name}"

    def request(
        self, method: str, pattern: str, token: str | None, agent: str = "b"
    ) -> httpx.Response:
        """One request of the route table, with a body that would hurt."""
        url = pattern.format(town=self.town.name, rig=RIG, agent=agent)
        name = next((name for name in BODIES if pattern.endswith(name)), "")
        content = json.dumps(BODIES[name]) if name else b"evil"
        headers = {"authorization": f"Bearer {token}"} if token else {}
        return httpx.request(
            method,
            f"{self.town.plane.endpoints.http}{url}",
            headers=headers,
            content=content if method in {"POST", "PATCH"} else None,
            timeout=30,
        )

    def everything(self) -> dict[str, Any]:
        return everything(self.town, "a", "b")


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victim]:
    with PlaneProcess(tmp_path_factory.mktemp("plane") / "data") as plane:
        town = Town(plane)
        town.post("mayor/configure", json={**START, "role": "mayor", "agentId": "m"})
        for agent in ("a", "b"):
            town.started(agent)
            town.said(agent, f"the secret of {agent}")
            town.wait_settled(agent)
        wait_until_quiet(town, "a", "b")
        yield Victim(town)


def test_without_a_token_nothing_guarded_answers(victim: Victim) -> None:
    """401 on every route of the table that is about a town."""
    before = victim.everything()

    answers = {
        f"{route.method} {route.pattern}": victim.request(
            route.method, route.pattern, None
        ).status_code
        for route in GUARDED
    }

    assert dict.fromkeys(answers, 401) == answers
    assert before == victim.everything()


def test_h1_an_agent_reaches_no_other_agents_snapshot(victim: Victim) -> None:
    """The token of A is refused on the session of B, whatever it wants with it."""
    token = victim.town.plane.token("agent", rig=RIG, agent="a")
    before = victim.everything()

    answers = {
        f"{route.method} {route.pattern}": victim.request(
            route.method, route.pattern, token, agent="b"
        )
        for route in SNAPSHOT
    }

    codes = {what: answer.status_code for what, answer in answers.items()}
    assert 4 == len(answers)
    assert dict.fromkeys(answers, 403) == codes
    assert not [text for text in answers.values() if b"secret" in text.content]
    assert before == victim.everything()
    own = victim.request("GET", SNAPSHOT[0].pattern, token, agent="a")
    assert (200, True) == (own.status_code, b"the secret of a" in own.content)


def test_h1_holds_on_the_snapshot_services_own_port(victim: Victim) -> None:
    """The gateway is not the only one that looks."""
    plane = victim.town.plane
    stub = plane.snapshots("agent", rig=RIG, agent="a")
    name = f"{plane.agent_name('b')}/snapshots/latest"
    download = snapshots_pb2.DownloadSnapshotRequest(name=name)
    delete = snapshots_pb2.DeleteSnapshotRequest(name=name)
    before = victim.everything()

    codes = [
        refusal(lambda: next(stub.DownloadSnapshot(download))),
        refusal(lambda: stub.DeleteSnapshot(delete)),
    ]

    assert [grpc.StatusCode.PERMISSION_DENIED] * 2 == codes
    assert before == victim.everything()


def test_h3_a_container_reaches_no_other_town(victim: Victim) -> None:
    """A container's token of town X is refused on every route of town Y."""
    token = victim.town.plane.token("container", town="town-x")
    before = victim.everything()

    answers = {
        f"{route.method} {route.pattern}": victim.request(
            route.method, route.pattern, token
        ).status_code
        for route in GUARDED
    }

    assert dict.fromkeys(answers, 403) == answers
    assert before == victim.everything()


def test_h3_the_same_agent_id_in_two_towns_is_two_sessions(victim: Victim) -> None:
    """In its own town a container finds nothing of another town's agent."""
    plane = victim.town.plane
    mine = plane.http("container", town="town-x")
    route = f"/api/towns/town-x/rigs/{RIG}/agents/b/db-snapshot"
    before = victim.everything()

    absent = mine.get(route)
    written = mine.post(route, content=b"mine")
    read = mine.get(route)
    deleted = mine.delete(route)

    assert 404 == absent.status_code
    assert {"success": False, "error": "Snapshot not found"} == absent.json()
    assert [200, 200, 200] == [r.status_code for r in (written, read, deleted)]
    assert b"mine" == read.content
    assert before == victim.everything()


def test_h3_holds_on_every_services_own_port(victim: Victim) -> None:
    """Neither registry nor snapshots nor the supervisor serves another town's token."""
    plane = victim.town.plane
    registry = plane.registry("container", town="town-x")
    snapshots = plane.snapshots("container", town="town-x")
    supervisor = plane.supervisor("container", town="town-x")
    town, agent = f"towns/{plane.town}", plane.agent_name("b")
    before = victim.everything()

    codes = [
        refusal(call)
        for call in (
            lambda: registry.ListAgents(registry_pb2.ListAgentsRequest(parent=town)),
            lambda: registry.ReplaceAgents(
                registry_pb2.ReplaceAgentsRequest(parent=town)
            ),
            lambda: registry.DeregisterAgent(
                registry_pb2.DeregisterAgentRequest(name=agent)
            ),
            lambda: snapshots.AdvanceEpoch(
                snapshots_pb2.AdvanceEpochRequest(
                    name=agent, epoch=99, instance="towns/town-x/instances/i"
                )
            ),
            lambda: supervisor.StopAgent(supervisor_pb2.StopAgentRequest(name=agent)),
        )
    ]

    assert [grpc.StatusCode.PERMISSION_DENIED] * len(codes) == codes
    assert before == victim.everything()


def test_what_was_refused_would_have_done_harm(victim: Victim) -> None:
    """The same requests with the right token change the town: the refusals counted.

    The last test of this file, for it leaves the town in ruins.
    """
    plane = victim.town.plane
    own = plane.token("container")
    user = plane.token("user")
    before = victim.everything()

    told = victim.request(
        "POST", "/api/towns/{town}/container/agents/{agent}/message", user
    )
    drained = victim.request("POST", "/api/towns/{town}/container-eviction", own)
    stopped = victim.request(
        "POST", "/api/towns/{town}/container/agents/{agent}/stop", user
    )
    listed = victim.request("POST", "/api/towns/{town}/container-registry", own)

    answers = [told, drained, stopped, listed]
    assert [200, 200, 200, 200] == [answer.status_code for answer in answers]
    after = {
        "list": victim.town.get("container-registry", kind="container").json(),
        "drain": victim.town.get("drain-status", kind="container").json(),
    }
    assert before["list"] != after["list"]
    assert before["drain"] != after["drain"]
    assert "exited" == victim.town.status("b")["status"]


def refusal(call: Any) -> grpc.StatusCode | None:
    """The status that a call ends with; None when it was served."""
    try:
        call()
    except grpc.RpcError as error:
        code: grpc.StatusCode = error.code()
        return code
    return None
