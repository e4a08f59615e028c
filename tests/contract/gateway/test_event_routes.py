"""An agent's log over HTTP, as it is written and read."""

from __future__ import annotations

from typing import Any

import pytest

from tests.contract.gateway.fake_plane import FakePlane
from tests.support.tokens import AGENT, OTHER_AGENT, RIG, TOWN

EVENTS = f"/api/towns/{TOWN}/rigs/{RIG}/agents/{AGENT}/events"
APPEND = f"/api/towns/{TOWN}/rigs/{RIG}/agent-events"


def append(plane: FakePlane, body: Any, token: str, **options: Any) -> Any:
    plane.registry.add(AGENT)
    plane.registry.add(OTHER_AGENT)
    return plane.request("POST", APPEND, token, json=body, **options)


def test_an_event_is_appended(plane: FakePlane):
    """Under the client's own id where it gives one."""
    body = {"agent_id": AGENT, "event_type": "x", "data": {"a": [1]}}
    headers = {"idempotency-key": "k-1"}

    response = append(plane, body, plane.tokens.agent(), headers=headers)
    append(plane, body, plane.tokens.container())

    assert 201 == response.status_code
    assert {"success": True, "data": {"appended": True}} == response.json()
    first, second = plane.registry.events
    assert (f"towns/{TOWN}/agents/{AGENT}", "x", '{"a": [1]}', "k-1") == (
        first.parent,
        first.event.type,
        first.event.data_json,
        first.request_id,
    )
    assert second.request_id not in ("", "k-1")


@pytest.mark.parametrize(
    "body",
    [
        {"event_type": "x"},
        {"agent_id": AGENT},
        {"agent_id": AGENT, "event_type": ""},
        {"agent_id": "../x", "event_type": "x"},
    ],
)
def test_an_event_in_another_shape_is_refused(plane: FakePlane, body: Any):
    """Agent and type are required, and the agent's id is one."""
    response = append(plane, body, plane.tokens.container())

    assert 400 == response.status_code
    assert [] == plane.registry.events


@pytest.mark.parametrize(
    ("who", "asserted"),
    [("agent", ""), ("agent", OTHER_AGENT), ("container", AGENT)],
)
def test_nobody_speaks_for_another(plane: FakePlane, who: str, asserted: str):
    """An agent is held to its credential, whatever it asserts beside it, and a
    container to what it asserts."""
    token = getattr(plane.tokens, who)()
    headers = {"x-gastown-agent-id": asserted} if asserted else {}
    body = {"agent_id": OTHER_AGENT, "event_type": "x"}

    response = append(plane, body, token, headers=headers)

    assert 403 == response.status_code
    text = "agent_id does not match authenticated agent"
    assert {"success": False, "error": text} == response.json()
    assert [] == plane.registry.events


def test_events_are_listed_after_an_id(plane: FakePlane):
    """As rows, with how many the reader has missed."""
    for number in range(3):
        body = {"agent_id": AGENT, "event_type": f"e{number}", "data": number}
        append(plane, body, plane.tokens.agent())
    plane.registry.dropped = 7

    response = plane.request(
        "GET", f"{EVENTS}?after_id=1&limit=1", plane.tokens.agent()
    )

    row = {
        "id": 2,
        "agent_id": AGENT,
        "event_type": "e1",
        "data": 1,
        "created_at": "2026-01-02T03:04:05.678Z",
    }
    assert {"success": True, "data": [row]} == response.json()
    assert "7" == response.headers["x-townkeeper-dropped-events"]


@pytest.mark.parametrize(
    "query", ["after_id=-1", "after_id=x", "limit=0", "limit=1001", "limit=x"]
)
def test_numbers_out_of_range_are_refused(plane: FakePlane, query: str):
    """A reader whose cursor is lost must not begin again unawares."""
    plane.registry.add(AGENT)

    response = plane.request("GET", f"{EVENTS}?{query}", plane.tokens.agent())

    assert 400 == response.status_code
