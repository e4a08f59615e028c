"""Who may call what: every credential on every route; nothing is open by omission."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import pytest

from services.chassis.auth import Kind
from services.gateway.routes import ROUTES
from tests.contract.gateway.fake_plane import FakePlane
from tests.support.tokens import AGENT, FOREIGN_TOWN, OTHER_AGENT, RIG, TOWN, Tokens

OK: Final = 0  # let in: whatever the answer, it is neither 401 nor 403

CREDENTIALS: Final[dict[str, Callable[[Tokens], str]]] = {
    "none": lambda tokens: "",
    "garbage": lambda tokens: "garbage",
    "expired": lambda tokens: tokens.expired(),
    "expired user": lambda tokens: tokens.expired(Kind.USER),
    "foreign key": lambda tokens: tokens.foreign_key(),
    "foreign key user": lambda tokens: tokens.foreign_key(Kind.USER),
    "wrong audience": lambda tokens: tokens.wrong_audience(),
    "alg none": lambda tokens: tokens.algorithm_none(),
    "oversized": lambda tokens: tokens.oversized(),
    "revoked": lambda tokens: tokens.revoked(),
    "container": lambda tokens: tokens.container(),
    "container other town": lambda tokens: tokens.container(FOREIGN_TOWN),
    "agent own": lambda tokens: tokens.agent(),
    "agent other": lambda tokens: tokens.agent(OTHER_AGENT),
    "agent other rig": lambda tokens: tokens.agent(rig="rig-2"),
    "agent other town": lambda tokens: tokens.agent(town=FOREIGN_TOWN),
    "user": lambda tokens: tokens.user(),
    "user other town": lambda tokens: tokens.user(FOREIGN_TOWN),
    "operator": lambda tokens: tokens.operator(),
    "operator other town": lambda tokens: tokens.operator(FOREIGN_TOWN),
}
ANYBODY: Final = dict.fromkeys(CREDENTIALS, OK)
NOBODY: Final = dict.fromkeys(CREDENTIALS, 401)
AGENTS: Final = ("agent own", "agent other", "agent other rig", "agent other town")
AGENTS_FORBIDDEN: Final = dict.fromkeys(AGENTS, 403)
OPERATORS_FORBIDDEN: Final = {"operator": 403, "operator other town": 403}
OPERATORS: Final = {"operator": OK, "operator other town": 403}
CONTAINERS: Final = {"container": OK, "container other town": 403}
LIST: Final = NOBODY | CONTAINERS | AGENTS_FORBIDDEN | OPERATORS_FORBIDDEN
READ: Final = NOBODY | CONTAINERS | AGENTS_FORBIDDEN | {"agent own": OK} | OPERATORS
WRITE: Final = LIST
DELETE: Final = NOBODY | CONTAINERS | AGENTS_FORBIDDEN | OPERATORS
# The one that has expired did so ten seconds ago.
RENEW: Final = NOBODY | CONTAINERS | {"expired": OK}
DRAIN: Final = NOBODY | CONTAINERS | OPERATORS
USERS: Final = {"user": OK, "user other town": 403}
ITSELF: Final = NOBODY | CONTAINERS | AGENTS_FORBIDDEN | {"agent own": OK}
IN_BODY: Final = ITSELF | {"agent other": OK}
PEOPLE: Final = NOBODY | USERS | {"container other town": 403} | OPERATORS

_TOWN: Final = "/api/towns/{town}"
_SNAPSHOT: Final = f"{_TOWN}/rigs/{{rig}}/agents/{{agent}}/db-snapshot"
_CALLBACK: Final = f"{_TOWN}/rigs/{{rig}}/agents/{{agent}}"
_AGENT: Final = f"{_TOWN}/container/agents/{{agent}}"
EXPECTED: Final[dict[tuple[str, str], dict[str, int]]] = {
    ("GET", "/"): ANYBODY,
    ("GET", "/health"): ANYBODY,
    ("GET", "/healthz"): ANYBODY,
    ("GET", "/readyz"): ANYBODY,
    ("GET", "/metrics"): ANYBODY,
    ("GET", "/.well-known/jwks.json"): ANYBODY,
    ("GET", "/openapi.json"): ANYBODY,
    ("GET", f"{_TOWN}/container-registry"): LIST,
    ("POST", f"{_TOWN}/container-registry"): LIST,
    ("GET", _SNAPSHOT): READ,
    ("POST", _SNAPSHOT): WRITE,
    ("DELETE", _SNAPSHOT): DELETE,
    ("GET", f"{_SNAPSHOT}/generations"): READ,
    ("POST", f"{_TOWN}/container-eviction"): DRAIN,
    ("POST", f"{_TOWN}/container-ready"): DRAIN,
    ("GET", f"{_TOWN}/drain-status"): DRAIN,
    ("POST", f"{_TOWN}/refresh-container-token"): RENEW,
    ("GET", f"{_TOWN}/mayor-id"): DELETE,
    ("POST", f"{_CALLBACK}/heartbeat"): ITSELF,
    ("POST", f"{_CALLBACK}/completed"): ITSELF,
    ("POST", f"{_CALLBACK}/waiting"): ITSELF,
    ("POST", f"{_CALLBACK}/status"): ITSELF,
    ("POST", f"{_CALLBACK}/checkpoint"): ITSELF,
    ("GET", f"{_CALLBACK}/events"): ITSELF,
    ("POST", f"{_TOWN}/rigs/{{rig}}/agent-events"): IN_BODY,
    ("POST", f"{_TOWN}/rigs/{{rig}}/nudge"): IN_BODY,
    ("GET", f"{_CALLBACK}/pending-nudges"): ITSELF,
    ("POST", f"{_CALLBACK}/nudge-delivered"): ITSELF,
    ("POST", f"{_TOWN}/container/agents/start"): PEOPLE,
    ("POST", f"{_AGENT}/stop"): PEOPLE,
    ("POST", f"{_AGENT}/message"): PEOPLE,
    ("PATCH", f"{_AGENT}/model"): PEOPLE,
    ("GET", f"{_AGENT}/status"): PEOPLE,
    ("GET", f"{_AGENT}/events"): PEOPLE,
    ("GET", f"{_TOWN}/container/health"): PEOPLE,
    ("POST", f"{_TOWN}/mayor/configure"): PEOPLE,
    ("POST", f"{_TOWN}/mayor/ensure"): PEOPLE,
    ("POST", f"{_TOWN}/mayor/message"): PEOPLE,
    ("GET", f"{_TOWN}/mayor/status"): PEOPLE,
    ("POST", f"{_TOWN}/mayor/completed"): PEOPLE,
    ("POST", f"{_TOWN}/mayor/destroy"): PEOPLE,
}
MATRIX: Final = [
    pytest.param(method, pattern, credential, status, id=f"{method} {pattern} {name}")
    for (method, pattern), row in EXPECTED.items()
    for (name, status), credential in zip(
        row.items(), CREDENTIALS.values(), strict=True
    )
]


def test_every_route_has_a_row_here():
    """A route that nobody thought about who may call it does not ship."""
    assert set(EXPECTED) == {(route.method, route.pattern) for route in ROUTES}


@pytest.mark.parametrize(("method", "pattern", "credential", "status"), MATRIX)
def test_each_credential_gets_what_the_table_says(
    plane: FakePlane,
    method: str,
    pattern: str,
    credential: Callable[[Tokens], str],
    status: int,
):
    """Strangers get 401, known ones that may not get 403, and only the rest get in."""
    path = pattern.format(town=TOWN, rig=RIG, agent=AGENT)

    response = plane.request(method, path, credential(plane.tokens))

    assert status == (response.status_code if response.status_code in (401, 403) else 0)


@pytest.mark.parametrize(
    ("credential", "status", "text"),
    [
        ("none", 401, "Authentication required"),
        ("garbage", 401, "Invalid token signature"),
        ("expired", 401, "Token expired"),
        ("foreign key", 401, "Invalid token signature"),
        ("alg none", 401, "Invalid token signature"),
        ("oversized", 401, "Invalid token signature"),
        ("revoked", 401, "Token revoked"),
        ("user", 401, "Authentication required"),
        ("container other town", 403, "Cross-town access denied"),
        ("agent other town", 403, "Cross-town access denied"),
        ("agent other rig", 403, "Token rigId does not match route"),
        ("agent other", 403, "Token agentId does not match route"),
    ],
)
def test_refusals_have_the_originals_words(
    plane: FakePlane, credential: str, status: int, text: str
):
    """Clients compare these texts to tell what to do about their token."""
    path = f"/api/towns/{TOWN}/rigs/{RIG}/agents/{AGENT}/db-snapshot"

    response = plane.request("GET", path, CREDENTIALS[credential](plane.tokens))

    assert status == response.status_code
    assert {"success": False, "error": text} == response.json()


class TestHolesOfTheOriginal:
    """What its own review found, and what follows from it."""

    def test_h1_an_agent_reads_no_other_agents_snapshot(self, plane: FakePlane):
        """A token of agent A on the snapshot of agent B is refused, B's stays."""
        plane.snapshots.keep(OTHER_AGENT, b"theirs")
        path = f"/api/towns/{TOWN}/rigs/{RIG}/agents/{OTHER_AGENT}/db-snapshot"

        read = plane.request("GET", path, plane.tokens.agent(AGENT))
        written = plane.request("POST", path, plane.tokens.agent(AGENT), content=b"x")

        assert (403, 403) == (read.status_code, written.status_code)
        assert b"theirs" == plane.snapshots.bytes_of(OTHER_AGENT)

    def test_h1_an_agent_does_not_even_write_its_own_snapshot(self, plane: FakePlane):
        """Only the supervisor's credential writes sessions; agents only read theirs."""
        plane.snapshots.keep(AGENT, b"mine")
        path = f"/api/towns/{TOWN}/rigs/{RIG}/agents/{AGENT}/db-snapshot"

        read = plane.request("GET", path, plane.tokens.agent())
        written = plane.request("POST", path, plane.tokens.agent(), content=b"x")
        deleted = plane.request("DELETE", path, plane.tokens.agent())

        assert (200, b"mine") == (read.status_code, read.content)
        assert (403, 403) == (written.status_code, deleted.status_code)

    def test_h3_one_id_in_two_towns_is_two_snapshots(self, plane: FakePlane):
        """A container of town X names an agent of town Y within its own town's path
        and reaches its own town's agent, never the other's."""
        plane.snapshots.keep(AGENT, b"of town-1")
        path = f"/api/towns/{FOREIGN_TOWN}/rigs/{RIG}/agents/{AGENT}/db-snapshot"
        token = plane.tokens.container(FOREIGN_TOWN)

        before = plane.request("GET", path, token)
        plane.request("POST", path, token, content=b"of town-2")

        assert 404 == before.status_code
        assert b"of town-1" == plane.snapshots.bytes_of(AGENT)
        assert b"of town-2" == plane.snapshots.bytes_of(AGENT, FOREIGN_TOWN)

    def test_h5_an_agent_reads_no_registry(self, plane: FakePlane):
        """The list holds every agent's environment."""
        path = f"/api/towns/{TOWN}/container-registry"

        response = plane.request("GET", path, plane.tokens.agent())

        assert 403 == response.status_code

    def test_h6_an_agent_neither_sets_nor_clears_a_drain(self, plane: FakePlane):
        """Freezing a town is for its containers and for operators."""
        path = f"/api/towns/{TOWN}/container-eviction"

        response = plane.request("POST", path, plane.tokens.agent())

        assert 401 == response.status_code
        assert "" == plane.registry.nonce

    @pytest.mark.parametrize(
        "path",
        [
            f"/api/towns/{TOWN}/container/agents/db-snapshot/status",
            f"/api/towns/{TOWN}/container/agents/container-registry/status",
            f"/api/towns/{TOWN}/mayor/status?x=/container-registry",
        ],
    )
    def test_h7_words_in_a_path_open_no_door(self, plane: FakePlane, path: str):
        """Routes match exactly: a path that holds the words elsewhere needs the
        credential of the route that it is."""
        response = plane.request("GET", path, plane.tokens.container())

        assert 401 == response.status_code


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/api/towns/town-1/container-registry/", 404),
        ("/api//towns/town-1/container-registry", 404),
        ("/api/towns//container-registry", 404),
        ("//api/towns/town-1/container-registry", 404),
        ("/API/towns/town-1/container-registry", 404),
        ("/api/towns/town-1/container%2Dregistry", 404),
        ("/api/towns/town-1/x/container-registry", 404),
        ("/api/towns/town-1/container-registry/../drain-status", 404),
        ("/api/towns/town-1%2Fcontainer-registry", 404),
        ("/api/towns/../container-registry", 400),
        ("/api/towns/%2e%2e/container-registry", 400),
        ("/api/towns/town-2%2F..%2Ftown-1/container-registry", 400),
        ("/api/towns/town-1%00/container-registry", 400),
        ("/api/towns/town-1%0d%0a/container-registry", 400),
        ("/api/towns/town%20-1/container-registry", 400),
        ("/api/towns/%ff/container-registry", 400),
        ("/api/towns/%E2%80%A6/container-registry", 400),
        ("/api/towns/*/container-registry", 400),
        ("/api/towns/%2A/container-registry", 400),
        ("/api/towns/.town/container-registry", 400),
        ("/api/towns/" + "x" * 129 + "/container-registry", 400),
        ("/api/towns/town%2D1/container-registry", 200),
    ],
)
def test_paths_that_pretend_to_be_others(plane: FakePlane, path: str, status: int):
    """Decoding happens once, after the path was cut up, and ids are checked then."""
    answered, _ = plane.raw("GET", path, plane.tokens.container())

    assert status == answered


@pytest.mark.parametrize(
    "header",
    ["Basic abc", "Bearer", "token", "Bearer a b", "", "bearer\t{token}"],
)
def test_authorization_in_other_shapes_is_no_credential(plane: FakePlane, header: str):
    """Only one bearer token counts."""
    sent = header.format(token=plane.tokens.container())
    headers: dict[str, Any] = {"authorization": sent}

    response = plane.request(
        "GET", f"/api/towns/{TOWN}/container-registry", headers=headers
    )

    assert 401 == response.status_code


def test_the_scheme_is_read_in_any_case(plane: FakePlane):
    """`bearer` and `BEARER` are the same scheme."""
    headers = {"authorization": f"BEARER {plane.tokens.container()}"}

    response = plane.request(
        "GET", f"/api/towns/{TOWN}/container-registry", headers=headers
    )

    assert 200 == response.status_code
