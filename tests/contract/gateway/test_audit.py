"""The gateway's own audit lines: of changes that it lets in or refuses."""

from __future__ import annotations

from typing import Any

from structlog.testing import LogCapture

from tests.contract.gateway.fake_plane import FakePlane
from tests.support.tokens import AGENT, TOWN, USER
from tests.support.waiting import wait_until_sync

MESSAGE = f"/api/towns/{TOWN}/container/agents/{AGENT}/message"


def audited(log: LogCapture, what: str) -> list[dict[str, Any]]:
    return [
        dict(line)
        for line in log.entries
        if line["event"] == "change.audited" and line["what"].startswith(what)
    ]


def test_a_change_is_told_of_here_and_behind(plane: FakePlane, log: LogCapture):
    """Under one request id: the route, and the call that it became. Nothing of what
    was said."""
    plane.registry.add(AGENT)

    plane.request(
        "POST",
        MESSAGE,
        plane.tokens.user(),
        json={"prompt": "a secret plan"},
        headers={"x-request-id": "mine-1"},
    )

    [line] = wait_until_sync(lambda: audited(log, "POST "))
    assert ("user", USER, f"towns/{TOWN}/agents/{AGENT}", "200", "mine-1") == (
        line["kind"],
        line["subject"],
        *line["resources"],
        line["outcome"],
        line["request_id"],
    )
    [behind] = wait_until_sync(lambda: audited(log, "/townkeeper.registry."))
    assert ("mine-1", "OK", line["token_id"]) == (
        behind["request_id"],
        behind["outcome"],
        behind["token_id"],
    )
    assert "a secret plan" not in repr(log.entries)


def test_a_refusal_is_told_of(plane: FakePlane, log: LogCapture):
    """Also of somebody who proved nothing."""
    plane.request("POST", MESSAGE, plane.tokens.container(), json={"prompt": "x"})
    plane.request("POST", MESSAGE, "garbage", json={"prompt": "x"})

    lines = wait_until_sync(lambda: _both(audited(log, "POST ")))
    assert [("container", "TOKEN_MISSING"), ("", "TOKEN_INVALID")] == [
        (line["kind"], line["outcome"]) for line in lines
    ]


def test_a_look_is_not(plane: FakePlane, log: LogCapture):
    """Nor a path that is nothing: anybody can invent those."""
    plane.request("GET", f"/api/towns/{TOWN}/drain-status", plane.tokens.container())
    plane.request("POST", "/nowhere", plane.tokens.container())

    ended = wait_until_sync(
        lambda: _both([e for e in log.entries if e["event"] == "request.ended"])
    )
    assert 2 == len(ended)
    assert [] == [e for e in log.entries if e["event"] == "change.audited"]


def _both(lines: list[Any]) -> list[Any]:
    return lines if len(lines) > 1 else []
