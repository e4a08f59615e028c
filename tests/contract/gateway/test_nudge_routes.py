"""Nudges over HTTP: wanted, listed, delivered."""

from __future__ import annotations

from typing import Any

import pytest

from tests.contract.gateway.fake_plane import FakePlane
from tests.support.tokens import AGENT, OTHER_AGENT, RIG, TOWN
from townkeeper.registry.v1 import callbacks_pb2 as res

RIG_PATH = f"/api/towns/{TOWN}/rigs/{RIG}"
OWN = f"{RIG_PATH}/agents/{AGENT}"


def nudge(plane: FakePlane, body: Any, token: str = "", **options: Any) -> Any:
    """As the container, unless another token is given."""
    plane.registry.add(AGENT)
    plane.registry.add(OTHER_AGENT)
    token = token or plane.tokens.container()
    return plane.request("POST", f"{RIG_PATH}/nudge", token, json=body, **options)


def test_a_nudge_goes_its_way(plane: FakePlane):
    """In the original's shapes, from the one who wants it to the one who says it."""
    body = {"target_agent_id": AGENT, "message": "Look.", "mode": "immediate"}
    headers = {"idempotency-key": "n-1", "x-gastown-agent-id": OTHER_AGENT}

    accepted = nudge(plane, body, headers=headers)
    pending = plane.request("GET", f"{OWN}/pending-nudges", plane.tokens.agent())
    delivered = plane.request(
        "POST",
        f"{OWN}/nudge-delivered",
        plane.tokens.agent(),
        json={"nudge_id": "n-1"},
    )

    assert {"success": True, "data": {"nudge_id": "n-1"}} == accepted.json()
    row = {
        "nudge_id": "n-1",
        "message": "Look.",
        "mode": "immediate",
        "priority": "normal",
        "source": f"agent:{OTHER_AGENT}",
        "created_at": "2026-01-02T03:04:05.000Z",
        "expires_at": None,
    }
    assert {"success": True, "data": [row]} == pending.json()
    assert {"success": True, "data": {"marked": True}} == delivered.json()
    assert {} == plane.registry.nudges


def test_what_is_asked_for_reaches_the_registry(plane: FakePlane):
    """With an id of ours where the client gives none."""
    nudge(plane, {"target_agent_id": AGENT, "message": "a"})
    body = {"mode": "queue", "priority": "urgent", "ttl_seconds": 60}
    nudge(plane, {"target_agent_id": AGENT, "message": "b", **body})

    plain, urgent = plane.registry.nudges.values()
    assert plain.nudge_id
    assert (res.Nudge.MODE_WAIT_IDLE, res.Nudge.PRIORITY_NORMAL, "container") == (
        plain.nudge.mode,
        plain.nudge.priority,
        plain.nudge.source,
    )
    assert not plain.HasField("ttl")
    assert (res.Nudge.MODE_QUEUE, res.Nudge.PRIORITY_URGENT, 60) == (
        urgent.nudge.mode,
        urgent.nudge.priority,
        urgent.ttl.seconds,
    )


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"target_agent_id": None}, "target_agent_id"),
        ({"message": ""}, "message"),
        ({"mode": "soon"}, "mode"),
        ({"priority": "high"}, "priority"),
        ({"mode": "queue", "ttl_seconds": 0}, "ttl_seconds"),
        ({"mode": "queue", "ttl_seconds": True}, "ttl_seconds"),
        ({"mode": "queue", "ttl_seconds": 1.5}, "ttl_seconds"),
        ({"mode": "queue", "ttl_seconds": 604_801}, "ttl_seconds"),
        ({"ttl_seconds": 60}, "ttl_seconds"),
    ],
)
def test_a_nudge_in_another_shape_is_refused(
    plane: FakePlane, change: dict[str, Any], path: str
):
    """With the field that is wrong."""
    response = nudge(plane, {"target_agent_id": AGENT, "message": "x", **change})

    assert 400 == response.status_code
    assert [[path]] == [issue["path"] for issue in response.json()["issues"]]
    assert {} == plane.registry.nudges


def test_an_agent_nudges_nobody_else(plane: FakePlane):
    """Its credential is for itself; the original let any agent nudge any other."""
    token = plane.tokens.agent()

    other = nudge(plane, {"target_agent_id": OTHER_AGENT, "message": "x"}, token)
    own = nudge(plane, {"target_agent_id": AGENT, "message": "x"}, token)

    assert (403, 200) == (other.status_code, own.status_code)
    error = "target_agent_id does not match authenticated agent"
    assert {"success": False, "error": error} == other.json()


def test_nobody_marks_another_agents_nudge(plane: FakePlane):
    """The original took any id; here it is looked for among the agent's own."""
    headers = {"idempotency-key": "n-1"}
    nudge(plane, {"target_agent_id": OTHER_AGENT, "message": "x"}, headers=headers)
    body = {"nudge_id": "n-1"}

    tokens = (plane.tokens.agent(), plane.tokens.container())
    answers = [
        plane.request("POST", f"{OWN}/nudge-delivered", token, json=body)
        for token in tokens
    ]

    assert [404, 404] == [answer.status_code for answer in answers]
    assert 1 == len(plane.registry.nudges)


@pytest.mark.parametrize("nudge_id", ["", "../other/nudges/n-1", "a/b"])
def test_an_id_that_is_none_is_refused(plane: FakePlane, nudge_id: str):
    """An id becomes part of a name."""
    plane.registry.add(AGENT)
    response = plane.request(
        "POST",
        f"{OWN}/nudge-delivered",
        plane.tokens.container(),
        json={"nudge_id": nudge_id},
    )

    assert 400 == response.status_code
