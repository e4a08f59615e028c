"""The line that each changing call leaves: who, what, how it ended; no payload."""

from __future__ import annotations

from typing import Any

import pytest
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

from services.chassis import audit
from services.chassis.access import ANY_TOWN
from services.chassis.errors import ServiceError, rpc_errors
from services.registry.policy import POLICY as REGISTRY
from services.snapshots.policy import POLICY as SNAPSHOTS
from services.supervisor.policy import POLICY as SUPERVISOR
from tests.support.grpc_server import RunningServer
from tests.support.shapes import SHAPES, about, ask, method
from tests.support.tokens import AGENT, FOREIGN_TOWN, OTHER_AGENT, TOWN, USER, Tokens
from tests.support.waiting import wait_until

NAME = f"towns/{TOWN}/agents/{AGENT}"


async def line_of(
    server: RunningServer, token: str | None, shape: str, request: Any
) -> dict[str, Any]:
    """What the audit says of one call, however it ends."""
    channel = server.channel(token)
    with capture_logs(processors=[merge_contextvars]) as lines:
        try:
            with rpc_errors():
                metadata = (("x-request-id", "chosen-1"),)
                await ask(channel, shape, request, metadata=metadata)
        except ServiceError:
            pass
        found = await wait_until(
            lambda: [e for e in lines if e["event"] == "change.audited"]
        )
    assert 1 == len(found)
    return dict(found[0])


@pytest.mark.parametrize("shape", SHAPES)
async def test_one_line_for_each_change(
    shape: str, server: RunningServer, tokens: Tokens
) -> None:
    """Kind, subject, id of the token, method, resources, outcome: no more."""
    token = tokens.container()
    caller = await tokens.verifier().verify(token)

    line = await line_of(server, token, shape, about())

    assert {
        "event": "change.audited",
        "log_level": "info",
        "request_id": "chosen-1",
        "kind": "container",
        "subject": f"towns/{TOWN}",
        "token_id": caller.token_id,
        "what": method(shape),
        "resources": [NAME],
        "outcome": "OK",
    } == line


@pytest.mark.parametrize(
    ("make", "request_about", "kind", "subject", "outcome"),
    [
        pytest.param(
            lambda t: t.agent(),
            about(OTHER_AGENT),
            "agent",
            NAME,
            "AGENT_FOREIGN",
            id="another agent",
        ),
        pytest.param(
            lambda t: t.user(),
            about(town=FOREIGN_TOWN),
            "user",
            USER,
            "TOWN_FOREIGN",
            id="another town",
        ),
        pytest.param(
            lambda t: t.operator(),
            about(),
            "operator",
            f"towns/{ANY_TOWN}",
            "OK",
            id="an operator",
        ),
        pytest.param(
            lambda t: t.expired(), about(), "", "", "TOKEN_EXPIRED", id="expired"
        ),
        pytest.param(lambda t: None, about(), "", "", "TOKEN_MISSING", id="nobody"),
    ],
)
async def test_refusals_are_told_of(
    server: RunningServer,
    tokens: Tokens,
    make: Any,
    request_about: Any,
    kind: str,
    subject: str,
    outcome: str,
) -> None:
    """Who tried what, as far as that is proven."""
    line = await line_of(server, make(tokens), "unary_unary", request_about)

    assert (kind, subject, outcome) == (line["kind"], line["subject"], line["outcome"])


def test_what_counts_as_a_change() -> None:
    """Everything but what only looks, and the pulse of an instance."""
    changing = {
        path.rpartition("/")[2]
        for path in (*REGISTRY, *SNAPSHOTS, *SUPERVISOR)
        if audit.changes(path)
    }

    assert {
        "IssueAgentToken",
        "IssueContainerToken",
        "RevokeTokens",
        "RegisterAgent",
        "ReplaceAgents",
        "ClaimAgents",
        "EnqueueMessage",
        "AnnounceDrain",
        "UploadSnapshot",
        "DeleteSnapshot",
        "StartAgent",
        "StopAgent",
    } <= changing
    reading = {"GetAgent", "ListAgents", "WatchAgents", "DownloadSnapshot", "GetRun"}
    assert not changing & (reading | {"Heartbeat", "ResolveAgent", "TailOutput"})


async def test_a_long_list_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line stays a line."""
    with capture_logs() as lines:
        audit.record(None, "/s/M", [f"towns/t/agents/{n}" for n in range(500)], "OK")

    assert audit.RESOURCES_MAX == len(lines[0]["resources"])


async def test_a_long_name_is_cut(server: RunningServer, tokens: Tokens) -> None:
    """Whoever is refused for it, too, may have sent megabytes."""
    line = await line_of(
        server, tokens.container(), "unary_unary", about("a" * 1_000_000)
    )

    (name,) = line["resources"]
    assert NAME[:20] == name[:20]
    assert 420 == len(name)
