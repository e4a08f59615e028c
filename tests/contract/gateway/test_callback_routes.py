"""What agents say of themselves over HTTP."""

from __future__ import annotations

from json import dumps
from typing import Any

import pytest

from tests.contract.gateway.fake_plane import FakePlane
from tests.support.tokens import AGENT, RIG, TOWN
from townkeeper.registry.v1 import registry_pb2 as pb

BASE = f"/api/towns/{TOWN}/rigs/{RIG}/agents/{AGENT}"
NAME = f"towns/{TOWN}/agents/{AGENT}"


def post(plane: FakePlane, what: str, json: Any = None, token: str = "") -> Any:
    """As the agent itself, unless another token is given."""
    plane.registry.add(AGENT)
    options = {} if json is None else {"content": dumps(json)}
    return plane.request(
        "POST", f"{BASE}/{what}", token or plane.tokens.agent(), **options
    )


@pytest.mark.parametrize(
    ("what", "body", "answer", "report"),
    [
        ("heartbeat", None, {"heartbeat": True}, {"heartbeat": {}}),
        ("heartbeat", {}, {"heartbeat": True}, {"heartbeat": {}}),
        (
            "heartbeat",
            {
                "agentId": "ignored",
                "messageCount": 7,
                "lastEventType": "message.updated",
                "lastEventAt": "2026-01-02T03:04:05.678Z",
                "activeTools": ["bash"],
                "containerInstanceId": "c-1",
            },
            {"heartbeat": True},
            {
                "heartbeat": {
                    "last_event_type": "message.updated",
                    "last_event_time": {"seconds": 1767323045, "nanos": 678000000},
                    "active_tools": ["bash"],
                    "container_instance_id": "c-1",
                }
            },
        ),
        (
            "completed",
            {"status": "failed", "reason": "no way", "agentId": AGENT},
            {"completed": True},
            {"completion": {"outcome": 2, "reason": "no way"}},
        ),
        (
            "completed",
            {"status": "completed"},
            {"completed": True},
            {"completion": {"outcome": 1}},
        ),
        (
            "waiting",
            {"agentId": AGENT, "firedAt": 1767323045678},
            {"acknowledged": True},
            {
                "waiting": {
                    "fire_time": {"seconds": 1767323045, "nanos": 678000000},
                }
            },
        ),
        ("waiting", None, {"acknowledged": True}, {"waiting": {}}),
        (
            "status",
            {"message": "  Reading\n"},
            {"ok": True},
            {"status": {"text": "Reading"}},
        ),
        (
            "checkpoint",
            {"data": {"a": [1, 12345678901234567890, None, "\u00fc"]}},
            {"written": True},
            {
                "checkpoint": {
                    "data_json": '{"a": [1, 12345678901234567890, null, "\u00fc"]}'
                }
            },
        ),
        (
            "checkpoint",
            {"data": None},
            {"written": True},
            {"checkpoint": {"data_json": "null"}},
        ),
    ],
)
def test_a_report_reaches_the_registry(
    plane: FakePlane, what: str, body: Any, answer: Any, report: Any
):
    """In the original's shape, there and back."""
    response = post(plane, what, body)

    assert 200 == response.status_code
    assert {"success": True, "data": answer} == response.json()
    assert [pb.ReportAgentRequest(name=NAME, **report)] == plane.registry.reports


@pytest.mark.parametrize(
    ("what", "body", "path"),
    [
        ("heartbeat", {"lastEventAt": "yesterday"}, ["lastEventAt"]),
        ("heartbeat", {"lastEventAt": True}, ["lastEventAt"]),
        ("heartbeat", {"lastEventAt": 1e300}, ["lastEventAt"]),
        ("heartbeat", {"activeTools": "bash"}, ["activeTools"]),
        ("heartbeat", {"activeTools": [1]}, ["activeTools", 0]),
        ("completed", {}, ["status"]),
        ("completed", {"status": "done"}, ["status"]),
        ("completed", None, None),
        ("waiting", {"firedAt": []}, ["firedAt"]),
        ("status", {}, ["message"]),
        ("status", {"message": " \n"}, ["message"]),
        ("status", {"message": "x" * 281}, ["message"]),
        ("checkpoint", {"data": {"a": "\ud800"}}, ["data"]),
    ],
)
def test_a_report_in_another_shape_is_refused(
    plane: FakePlane, what: str, body: Any, path: Any
):
    """With the field that is wrong, and nothing is kept."""
    response = post(plane, what, body)

    assert 400 == response.status_code
    found = [issue["path"] for issue in response.json().get("issues", [])]
    assert ([path] if path else []) == found
    assert [] == plane.registry.reports


def test_a_heartbeat_tells_a_container_of_a_drain(plane: FakePlane):
    """So that it can confirm that it is the new one."""
    plane.registry.nonce = "nonce-1"

    response = post(plane, "heartbeat", {}, plane.tokens.container())

    assert {"heartbeat": True, "drainNonce": "nonce-1"} == response.json()["data"]


def test_an_agent_that_the_town_does_not_know_is_404(plane: FakePlane):
    """It has no record to keep anything with."""
    path = f"{BASE}/status"
    response = plane.request(
        "POST", path, plane.tokens.container(), json={"message": "x"}
    )

    assert (404, "AGENT_NOT_FOUND") == (
        response.status_code,
        response.headers["x-townkeeper-reason"],
    )
