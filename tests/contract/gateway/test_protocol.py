"""What holds for every request: ids, limits, envelopes, log lines."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from structlog.testing import LogCapture

from services.gateway.routes import ROUTES
from tests.contract.gateway.fake_plane import FakePlane
from tests.support.tokens import RIG, TOWN
from tests.support.waiting import wait_until_sync

LIST = f"/api/towns/{TOWN}/container-registry"
SNAPSHOT = f"/api/towns/{TOWN}/rigs/{RIG}/agents/one/db-snapshot"
NOT_FOUND = {"success": False, "error": "Not found"}


def talk(plane: FakePlane, sent: bytes) -> bytes:
    """Sends bytes as they are; what comes back until the gateway closes.

    All in one go: what arrives after a refusal would cut off the answer.
    """
    host, _, port = plane.url.removeprefix("http://").rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(sent)
        answer = b""
        while data := connection.recv(65536):
            answer += data
        return answer


class TestRequestId:
    @pytest.mark.parametrize("path", ["/", "/nowhere", LIST, "/api/towns/../x"])
    def test_every_answer_has_one(self, plane: FakePlane, path: str):
        """To find its log lines by."""
        assert 32 == len(plane.request("GET", path).headers["x-request-id"])

    def test_the_clients_own_is_kept_and_handed_on(
        self, plane: FakePlane, log: LogCapture
    ):
        """One id through all services."""
        headers = {"x-request-id": "mine-1"}

        response = plane.request("GET", LIST, plane.tokens.container(), headers=headers)

        assert "mine-1" == response.headers["x-request-id"]
        events = ("request.ended", "call.ended")
        wait_until_sync(
            lambda: len([e for e in log.entries if e["event"] in events]) > 1
        )
        ids = {e["request_id"] for e in log.entries if e["event"] in events}
        assert {"mine-1"} == ids

    def ended(self, log: LogCapture, request_id: str) -> set[str]:
        """The events that carry the id, once both processes have logged theirs."""
        found = {e["event"] for e in log.entries if e.get("request_id") == request_id}
        return found if len(found) > 1 else set()

    @pytest.mark.parametrize("given", ["", "a b", "x" * 129, "ü", "a/b"])
    def test_one_that_could_do_harm_is_replaced(self, plane: FakePlane, given: str):
        """It goes into log lines and metadata."""
        response = plane.request("GET", "/", headers={"x-request-id": given.encode()})

        assert 32 == len(response.headers["x-request-id"])


class TestUnknown:
    @pytest.mark.parametrize(
        ("method", "path"),
        [
            ("GET", "/nowhere"),
            ("GET", "/api/towns/town-1"),
            ("GET", "/v1/towns/town-1/agents"),
            ("GET", "/debug/towns/town-1/drain-status"),
            ("PUT", LIST),
            ("DELETE", LIST),
            ("OPTIONS", LIST),
            ("POST", "/health"),
            ("PROPFIND", LIST),
        ],
    )
    def test_what_has_no_row_is_not_found(
        self, plane: FakePlane, method: str, path: str
    ):
        """Whoever asks, in the original's words."""
        response = plane.request(method, path, plane.tokens.operator())

        assert (404, NOT_FOUND) == (response.status_code, response.json())

    def test_a_socket_is_not_opened(self, plane: FakePlane):
        """The original's unauthenticated WebSockets do not exist here."""
        answer = talk(
            plane,
            b"GET /api/towns/town-1/status/ws HTTP/1.1\r\nhost: x\r\n"
            b"connection: upgrade, close\r\nupgrade: websocket\r\n"
            b"sec-websocket-version: 13\r\nsec-websocket-key: x\r\n\r\n",
        )

        assert answer.startswith(b"HTTP/1.1 404 ")

    def test_no_browser_of_another_origin_is_invited(self, plane: FakePlane):
        """No CORS header, whatever the origin."""
        response = plane.request("GET", "/", headers={"origin": "http://localhost:1"})

        assert not [name for name in response.headers if "access-control" in name]


class TestLimits:
    def test_headers_have_an_end(self, plane: FakePlane):
        """Nobody fills our memory with a head."""
        head = b"GET / HTTP/1.1\r\nhost: x\r\nx-long: " + b"x" * 40 * 1024

        assert talk(plane, head).startswith(b"HTTP/1.1 400 ")

    def test_many_headers_have_an_end(self, plane: FakePlane):
        """However short each of them is."""
        head = b"GET / HTTP/1.1\r\nhost: x\r\n" + b"a: b\r\n" * 2_000

        assert talk(plane, head).startswith(b"HTTP/1.1 400 ")

    def test_what_is_no_http_is_refused(self, plane: FakePlane):
        """And the connection closed."""
        assert talk(plane, b"\x16\x03\x01 nonsense\r\n\r\n").startswith(b"HTTP/1.1 400")

    def test_a_body_that_does_not_say_its_length_is_counted(self, plane: FakePlane):
        """JSON ends at 4 MiB either way."""

        def endless() -> Iterator[bytes]:
            for _ in range(6):
                yield b" " * 1024 * 1024

        refused = plane.request(
            "POST", LIST, plane.tokens.container(), content=endless()
        )

        assert 413 == refused.status_code

    def test_a_token_beyond_its_length_is_refused(self, plane: FakePlane):
        """As any that does not verify."""
        response = plane.request("GET", LIST, plane.tokens.oversized())

        assert 401 == response.status_code


class TestLog:
    def lines(self, log: LogCapture, request_id: str) -> list[dict[str, Any]]:
        return [
            dict(entry)
            for entry in log.entries
            if ("request.ended", request_id)
            == (entry["event"], entry.get("request_id"))
        ]

    def test_one_line_for_each_request(self, plane: FakePlane, log: LogCapture):
        """Who asked for what, how it ended, how much went through."""
        token, headers = plane.tokens.container(), {"x-request-id": "one-line"}
        plane.request("POST", SNAPSHOT, token, content=b"12345", headers=headers)

        (line,) = wait_until_sync(lambda: self.lines(log, "one-line"))

        assert {
            "method": "POST",
            "route": "/api/towns/{town}/rigs/{rig}/agents/{agent}/db-snapshot",
            "town": TOWN,
            "agent": "one",
            "caller_kind": "container",
            "status": 200,
            "received_bytes": 5,
            "sent_bytes": 16,
        }.items() <= line.items()

    def test_neither_tokens_nor_bodies_are_in_it(
        self, plane: FakePlane, log: LogCapture
    ):
        """Refused or not."""
        token, path = plane.tokens.user(), f"/api/towns/{TOWN}/mayor/configure"
        headers = {"x-request-id": "secrets"}
        for body in ('{"prompt": "a-secret-word"}', '{"prompt": ["a-secret-word"]}'):
            plane.request("POST", path, token, content=body, headers=headers)
        unknown = f"/{token}?token={token}"
        plane.request("GET", unknown, "another-secret", headers=headers)
        wait_until_sync(lambda: len(self.lines(log, "secrets")) == 3)

        text = json.dumps(log.entries, default=str)

        assert "a-secret-word" not in text
        assert "another-secret" not in text
        assert token not in text
        assert token.rpartition(".")[2] not in text


class TestOpenRoutes:
    def test_in_the_originals_words(self, plane: FakePlane):
        """Its clients look at these two."""
        assert {"service": "gastown", "status": "ok"} == plane.request(
            "GET", "/"
        ).json()
        assert {"status": "ok"} == plane.request("GET", "/health").json()
        assert {"status": "ok"} == plane.request("GET", "/healthz").json()

    def test_ready_when_the_services_are(self, plane: FakePlane):
        """Asked over gRPC's own health."""
        response = plane.request("GET", "/readyz")

        assert (200, {"status": "ready"}) == (response.status_code, response.json())

    def test_keys_verify_our_tokens(self, plane: FakePlane):
        """Public parts only."""
        (key,) = plane.request("GET", "/.well-known/jwks.json").json()["keys"]

        assert plane.tokens.ring.kid == key["kid"]
        assert "d" not in key

    def test_metrics_count_requests_by_route(self, plane: FakePlane):
        """By pattern: ids would make as many series as there are agents."""
        plane.request("GET", SNAPSHOT, plane.tokens.container())
        plane.request("GET", "/some/invented/path")

        text = plane.request("GET", "/metrics").text

        assert 'townkeeper_http_requests_total{method="GET",route="/api/towns/' in text
        assert TOWN not in text
        assert "invented" not in text

    def test_the_description_has_every_route(self, plane: FakePlane):
        """Generated from the table, so that it cannot lag behind."""
        document = plane.request("GET", "/openapi.json").json()

        described = {
            (method.upper(), path)
            for path, operations in document["paths"].items()
            for method in operations
        }
        assert {(route.method, route.pattern) for route in ROUTES} == described
        assert "security" not in document["paths"]["/health"]["get"]
        assert document["paths"][ROUTES[-1].pattern]["post"]["security"]


def test_a_defect_of_ours_says_nothing_and_logs_all(
    plane: FakePlane, log: LogCapture, monkeypatch: pytest.MonkeyPatch
):
    """500 in the original's words; the cause is in the log under the request id."""

    async def broken(*_: Any) -> Any:
        raise ZeroDivisionError("details")

    client = "services.gateway.registry_client.RegistryClient.active_agents"
    monkeypatch.setattr(client, broken)

    response = plane.request("GET", LIST, plane.tokens.container())

    assert 500 == response.status_code
    assert {"success": False, "error": "Internal server error"} == response.json()
    assert ["request.crashed"] == [
        e["event"] for e in log.entries if e["log_level"] == "error"
    ]
