"""Bad requests on a real plane: each is told what is wrong with it, and whatever was
stored stays as it was."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import pytest

from services.chassis.errors import Reason, ServiceError, rpc_errors
from tests.support.plane import PlaneProcess
from tests.support.tokens import Tokens
from tests.support.town import RIG, Town
from tests.support.town_state import everything, session, wait_until_quiet
from townkeeper.registry.v1 import registry_pb2
from townkeeper.snapshots.v1 import snapshots_pb2
from townkeeper.supervisor.v1 import supervisor_pb2

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

SNAPSHOT_BYTES_MAX: Final = 2 << 20
KEEPER: Final = "keeper"  # runs, and has a session
ARCHIVE: Final = "archive"  # only has a snapshot, which came over HTTP
START: Final[dict[str, Any]] = {
    "agentId": "fresh",
    "rigId": RIG,
    "role": "polecat",
    "name": "Fresh",
    "identity": "fresh",
    "prompt": "",
    "runtime": "exec",
    "command": ["/bin/true"],
}
ENTRY: Final = {"agentId": "x", "request": START, "workdir": "", "env": {}}
AGENTS: Final = "container/agents"
NOBODY: Final = f"{AGENTS}/nobody"
SESSION: Final = f"rigs/{RIG}/agents/{ARCHIVE}/db-snapshot"
LONG: Final = "x" * 129
HUGE: Final = "x" * 10_001


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    root = tmp_path_factory.mktemp("plane") / "data"
    limit = {"TOWNKEEPER_SNAPSHOT_BYTES_MAX": str(SNAPSHOT_BYTES_MAX)}
    with PlaneProcess(root, **limit) as plane:
        town = Town(plane)
        town.started(KEEPER)
        town.said(KEEPER, "remember", "key-1")
        town.wait_settled(KEEPER)
        town.post(SESSION, kind="container", content=b"an archive")
        wait_until_quiet(town, KEEPER)
        yield town


@pytest.fixture(scope="module")
def before(town: Town) -> Any:
    """What the town is before any of these requests."""
    return everything(town, KEEPER), session(town, ARCHIVE)


@pytest.fixture(autouse=True)
def unchanged(town: Town, before: Any) -> Iterator[None]:
    """After each test of this file the town is what it was before all of them."""
    yield
    assert before == (everything(town, KEEPER), session(town, ARCHIVE))


def start(**changes: Any) -> dict[str, Any]:
    """The JSON of a start that would be served, changed as asked."""
    return {"json": {**START, **changes}}


def bad(
    method: str,
    route: str,
    reason: str,
    words: str,
    *,
    status: int = 400,
    kind: str = "user",
    **options: Any,
) -> Any:
    name = options.pop("id", f"{method} {route[-40:]} {words}")
    return pytest.param(method, route, kind, options, status, reason, words, id=name)


REQUESTS: Final = [
    # names
    bad("GET", f"{AGENTS}/..%2F..%2Fetc/status", "NAME_MALFORMED", "agent"),
    bad("GET", f"{AGENTS}/{LONG}/status", "NAME_MALFORMED", "agent"),
    bad("GET", f"{AGENTS}/a..b/status", "NAME_MALFORMED", "agent"),
    bad("GET", f"{AGENTS}/%00/status", "NAME_MALFORMED", "agent"),
    bad("GET", f"{AGENTS}/%ff%fe/status", "NAME_MALFORMED", "agent"),
    bad("POST", f"{AGENTS}/-a/message", "NAME_MALFORMED", "agent"),
    bad(
        *("GET", f"rigs/..%2f/agents/{ARCHIVE}/db-snapshot", "NAME_MALFORMED", "rig"),
        kind="container",
    ),
    bad("POST", f"{AGENTS}/start", "NAME_MALFORMED", "agent", **start(agentId="../x")),
    bad("POST", f"{AGENTS}/start", "", "body", **start(agentId="")),
    bad("POST", f"{AGENTS}/start", "", "body", **start(townId="elsewhere")),
    # words that mean nothing
    bad("POST", f"{AGENTS}/start", "", "body", id="role", **start(role="king")),
    bad("POST", f"{AGENTS}/start", "", "body", id="runtime", **start(runtime="vm")),
    bad("POST", f"{AGENTS}/start", "", "body", id="resume", **start(resume="maybe")),
    bad("POST", f"{AGENTS}/start", "", "body", id="types", **start(command="true")),
    # what is missing
    bad("POST", f"{AGENTS}/start", "", "body", id="nothing", json={}),
    bad("POST", f"{AGENTS}/start", "", "", id="no command", **start(command=[])),
    bad("POST", f"{AGENTS}/start", "", "", id="no rig", **start(rigId="")),
    bad("POST", f"{AGENTS}/{KEEPER}/message", "", "body", id="no prompt", json={}),
    bad("PATCH", f"{AGENTS}/{KEEPER}/model", "", "body", id="no model", json={}),
    bad(
        *("POST", "container-ready", "FIELD_REQUIRED", "nonce"),
        kind="container",
        json={},
    ),
    bad("POST", "mayor/message", "", "body", id="no text", json={"message": ""}),
    bad(
        *("POST", "mayor/message", "NO_START_REQUEST", "configure"),
        status=409,
        json={"message": "hello"},
    ),
    # what is no JSON, or other JSON
    *(
        bad("POST", route, "", "", kind=kind, id=f"{route} {name}", content=content)
        for route, kind in (
            (f"{AGENTS}/start", "user"),
            (f"{AGENTS}/{KEEPER}/message", "user"),
            ("container-registry", "container"),
        )
        for name, content in {
            "empty": b"",
            "cut": b'{"agentId": "fr',
            "twice": b"[] []",
            "NaN": b'[{"agentId": NaN}]',
            "deep": b"[" * 100_000,
            "no UTF-8": b'{"agentId": "\xff"}',
            "half a character": b'{"prompt": "\\ud800", "agentId": "\\ud800"}',
            "a number": b"17",
        }.items()
    ),
    bad("POST", "container-registry", "", "list", kind="container", json={}),
    bad(
        *("POST", "container-registry", "", "body"),
        kind="container",
        id="keys missing",
        json=[ENTRY, {"agentId": "y"}],
    ),
    bad(
        *("POST", "container-registry", "", ""),
        kind="container",
        id="twice the same",
        json=[ENTRY, ENTRY],
    ),
    # too large
    bad(
        *("POST", f"{AGENTS}/{KEEPER}/message", "MESSAGE_TOO_LARGE", "262144"),
        status=413,
        json={"prompt": "x" * 262_145},
    ),
    bad(
        *("POST", f"{AGENTS}/{KEEPER}/message", "REQUEST_TOO_LARGE", ""),
        status=413,
        json={"prompt": "x" * (5 << 20)},
    ),
    bad(
        *("POST", SESSION, "SNAPSHOT_TOO_LARGE", str(SNAPSHOT_BYTES_MAX)),
        status=413,
        kind="container",
        content=b"x" * (SNAPSHOT_BYTES_MAX + 1),
    ),
    bad(
        "POST",
        "mayor/message",
        "",
        "body",
        json={"message": "x", "uiContext": LONG * 80},
    ),
    # paths that lead elsewhere
    bad("POST", f"{AGENTS}/start", "FIELD_INVALID", "", **start(database="../x.db")),
    bad("POST", f"{AGENTS}/start", "FIELD_INVALID", "", **start(database="/etc/x")),
    bad("POST", f"{AGENTS}/start", "FIELD_INVALID", "", **start(database="a/../../b")),
    # headers and queries
    bad(
        *("POST", f"{AGENTS}/{KEEPER}/message", "NAME_MALFORMED", "idempotency-key"),
        headers={"idempotency-key": "a b"},
        json={"prompt": "x"},
    ),
    bad(
        *("POST", f"{AGENTS}/{KEEPER}/message", "MESSAGE_REUSED", "key-1"),
        status=409,
        headers={"idempotency-key": "key-1"},
        json={"prompt": "something else"},
    ),
    *(
        bad("POST", SESSION, "", "", kind="container", headers=headers, content=b"x")
        for headers in (
            {"if-match": "1"},
            {"if-none-match": "latest"},
            {"x-townkeeper-epoch": "-1"},
            {"x-townkeeper-epoch": "one"},
            {"x-townkeeper-epoch": "9" * 30},
        )
    ),
    bad(
        *("POST", SESSION, "GENERATION_MISMATCH", ""),
        status=412,
        kind="container",
        headers={"if-match": '"7"'},
        content=b"x",
    ),
    bad(
        *("POST", SESSION.replace(ARCHIVE, KEEPER), "LEASE_FENCED", "embedded"),
        status=409,
        kind="container",
        content=b"x",
    ),
    bad(
        *("DELETE", SESSION.replace(ARCHIVE, KEEPER), "LEASE_FENCED", "embedded"),
        status=409,
        kind="container",
    ),
    bad("GET", f"{SESSION}?generation=0", "", "generation", kind="container"),
    bad("GET", f"{SESSION}?generation=x", "", "generation", kind="container"),
    bad(
        *("GET", f"{SESSION}?generation=9", "SNAPSHOT_NOT_FOUND", "not found"),
        status=404,
        kind="container",
    ),
    bad(
        *("GET", SESSION, "", "range"),
        status=416,
        kind="container",
        headers={"range": "bytes=999-"},
    ),
    bad(
        *("POST", "container-eviction", "NAME_MALFORMED", "instance"),
        kind="container",
        headers={"x-townkeeper-instance": "a/b"},
    ),
    bad(
        *("POST", "container-eviction", "INSTANCE_NOT_FOUND", "nobody"),
        status=404,
        kind="container",
        headers={"x-townkeeper-instance": "nobody"},
    ),
    # whom nobody knows, and what no route does
    *(
        bad(method, f"{NOBODY}/{what}", "AGENT_NOT_FOUND", "", status=404, json=body)
        for method, what, body in (
            ("GET", "status", None),
            ("POST", "stop", None),
            ("POST", "message", {"prompt": "x"}),
            ("PATCH", "model", {"model": "a/b"}),
        )
    ),
    bad("PUT", "container-registry", "", "not found", status=404, json=[]),
    bad("POST", "../../v1/agents", "", "not found", status=404, json={}),
]


@pytest.mark.parametrize(
    ("method", "route", "kind", "options", "status", "reason", "words"), REQUESTS
)
def test_is_refused_and_says_why(
    town: Town,
    method: str,
    route: str,
    kind: str,
    options: dict[str, Any],
    status: int,
    reason: str,
    words: str,
) -> None:
    """The status of the contract, the reason where there is one, and what to change."""
    answer = town.http(kind).request(method, town.route(route), **options)

    assert status == answer.status_code, answer.text
    said = answer.json()
    assert words.lower() in said["error"].lower()
    assert 8 < len(said["error"]) < 1000
    if reason:
        assert reason == answer.headers["x-townkeeper-reason"]
    for issue in said.get("issues", []):
        assert issue["message"], "each complaint says what it is about"
        assert isinstance(issue["path"], list)


def raw(town: Town, request: bytes) -> bytes:
    """What the gateway answers to bytes; the client then sends no more."""
    where = urlsplit(town.plane.endpoints.http)
    with socket.create_connection((where.hostname, where.port), 30) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while data := connection.recv(65536):
            answer += data
    return answer


def test_a_body_that_is_cut_commits_nothing(town: Town) -> None:
    """The client dies in the middle of a megabyte: the snapshot before it stays."""
    token = town.plane.token("container")
    head = (
        f"POST {town.route(SESSION)} HTTP/1.1\r\nhost: here\r\n"
        f"authorization: Bearer {token}\r\ncontent-length: 1000000\r\n\r\n"
    )

    answer = raw(town, head.encode() + b"x" * 300_000)

    assert b" 200 " not in answer.split(b"\r\n")[0]


BAD_TOKENS: Final[dict[str, tuple[Callable[[Tokens], str], str]]] = {
    "expired": (lambda tokens: tokens.expired(), "TOKEN_EXPIRED"),
    "a stranger's": (lambda tokens: tokens.foreign_key(), "TOKEN_INVALID"),
    "a stranger's as ours": (Tokens.foreign_key_known_kid, "TOKEN_INVALID"),
    "unsigned": (Tokens.algorithm_none, "TOKEN_INVALID"),
    "our public key as a secret": (Tokens.hs256_with_public_key, "TOKEN_INVALID"),
}


@pytest.mark.parametrize("kind", BAD_TOKENS)
def test_a_bad_token_reaches_nothing(town: Town, kind: str) -> None:
    """401 over HTTP, UNAUTHENTICATED on each service's own port, with one reason."""
    make, reason = BAD_TOKENS[kind]
    plane, agent = town.plane, town.plane.agent_name(KEEPER)
    bearer = f"Bearer {make(Tokens(plane.data.plane))}"
    latest = f"{agent}/snapshots/latest"
    calls: list[tuple[Any, Any]] = [
        (plane.registry().GetAgent, registry_pb2.GetAgentRequest(name=agent)),
        (plane.snapshots().GetSnapshot, snapshots_pb2.GetSnapshotRequest(name=latest)),
        (plane.supervisor().StopAgent, supervisor_pb2.StopAgentRequest(name=agent)),
    ]

    answers = [
        httpx.request(
            method,
            f"{plane.endpoints.http}{town.route(route)}",
            headers={"authorization": bearer},
            content=b"[]" if method == "POST" else None,
        )
        for method, route in (
            ("GET", SESSION),
            ("POST", SESSION),
            ("POST", "container-registry"),
            ("POST", f"{AGENTS}/{KEEPER}/stop"),
        )
    ]
    metadata = (("authorization", bearer),)
    refusals = {refusal(call, request, metadata) for call, request in calls}

    assert [401] * 4 == [answer.status_code for answer in answers]
    assert {reason} == {answer.headers["x-townkeeper-reason"] for answer in answers}
    assert {Reason[reason]} == refusals


def refusal(call: Any, request: object, metadata: object) -> Reason | None:
    """Why a call is refused; None when it is served."""
    try:
        with rpc_errors():
            call(request, metadata=metadata)
    except ServiceError as error:
        return error.reason
    return None
