"""The list of what must run, and drains."""

from __future__ import annotations

import json
from typing import Any

import pytest

from services.chassis.errors import Reason, ServiceError
from tests.contract.gateway.fake_plane import FakePlane
from townkeeper.registry.v1 import resources_pb2 as res

LIST = "/api/towns/town-1/container-registry"


def entry(agent: str, **changes: Any) -> dict[str, Any]:
    request = {"agentId": agent, "role": "polecat", "prompt": "été", "future": [1]}
    base = {"agentId": agent, "request": request, "workdir": "/w", "env": {"A": "1"}}
    return base | changes


def post(plane: FakePlane, body: Any) -> Any:
    content = body if isinstance(body, bytes) else json.dumps(body)
    return plane.request("POST", LIST, plane.tokens.container(), content=content)


def get(plane: FakePlane) -> Any:
    return plane.request("GET", LIST, plane.tokens.container())


class TestRegistry:
    def test_nothing_is_an_empty_list(self, plane: FakePlane):
        """A town needs no creation."""
        assert {"success": True, "data": []} == get(plane).json()

    def test_a_list_reads_back_equal(self, plane: FakePlane):
        """All entries, over all pages, in order, with fields we do not know."""
        entries = [entry(f"agent-{n}", note=None, n=n) for n in (3, 1, 2, 5, 4)]

        posted = post(plane, entries)

        assert (200, {"success": True}) == (posted.status_code, posted.json())
        assert {"success": True, "data": entries} == get(plane).json()

    def test_entries_are_handed_on_word_for_word(self, plane: FakePlane):
        """Numbers, escapes and spaces are the client's, not a JSON library's."""
        text = (
            '{"agentId":"a","request":{"n":1.10,"big":1e2, "x":"\\u00e9\\ud800"},'
            ' "workdir":"","env":{}}'
        )

        post(plane, f" [ {text} ]\n".encode())

        (agent,) = plane.registry.agents.values()
        assert text == agent.entry_json
        assert f'{{"success":true,"data":[{text}]}}' == get(plane).text

    def test_an_empty_list_empties(self, plane: FakePlane):
        """The last drain of the original leaves exactly that."""
        post(plane, [entry("a")])
        post(plane, [])

        assert [] == get(plane).json()["data"]

    def test_agents_registered_one_by_one_are_entries_too(self, plane: FakePlane):
        """What a list never held is composed from its spec."""
        spec = res.AgentSpec(
            rig_id="rig-1",
            role=res.ROLE_POLECAT,
            model="p/m",
            env_vars={"KEY": "value"},
            lightweight=True,
        )
        plane.registry.add("one", spec=spec)

        (found,) = get(plane).json()["data"]

        assert "one" == found["agentId"]
        assert {"KEY": "value"} == found["env"]
        assert "town-1" == found["request"]["townId"]
        assert ("polecat", "p/m", True) == (
            found["request"]["role"],
            found["request"]["model"],
            found["request"]["lightweight"],
        )

    @pytest.mark.parametrize("state", ["STATE_ENDED", "STATE_CONFIGURED"])
    def test_only_what_must_run_is_listed(self, plane: FakePlane, state: str):
        """What has ended, or was only configured, is no entry."""
        plane.registry.add("gone", state=res.Agent.State.Value(state))

        assert [] == get(plane).json()["data"]

    @pytest.mark.parametrize(
        "body",
        [
            pytest.param(b"", id="nothing"),
            pytest.param(b"[", id="cut"),
            pytest.param(b"[{}", id="cut later"),
            pytest.param(b"[1,]", id="comma"),
            pytest.param(b"[] []", id="two values"),
            pytest.param(b"[{}] x", id="more"),
            pytest.param(b"[NaN]", id="NaN"),
            pytest.param(b"[" * 100_000, id="deep"),
            pytest.param(b"\xff\xfe[\x00]\x00", id="not UTF-8"),
            pytest.param(b"{}", id="an object"),
            pytest.param(b'"text"', id="a string"),
            pytest.param(b"null", id="null"),
        ],
    )
    def test_what_is_no_list_changes_nothing(self, plane: FakePlane, body: bytes):
        """The original crashed on it; ours says 400 and keeps what it had."""
        post(plane, [entry("a")])

        refused = post(plane, body)

        assert 400 == refused.status_code
        assert refused.json()["success"] is False
        assert refused.json()["error"]
        assert ["a"] == [one["agentId"] for one in get(plane).json()["data"]]

    @pytest.mark.parametrize(
        ("wrong", "path"),
        [
            pytest.param(7, [1], id="no object"),
            pytest.param(entry("b", agentId=None), [1, "agentId"], id="no agentId"),
            pytest.param(entry(""), [1, "agentId"], id="empty agentId"),
            pytest.param(entry("b", agentId=7), [1, "agentId"], id="number"),
            pytest.param(entry("b", request=[]), [1, "request"], id="request list"),
            pytest.param(entry("b", workdir=None), [1, "workdir"], id="no workdir"),
            pytest.param(entry("b", env=None), [1, "env"], id="no env"),
            pytest.param(entry("b", env={"A": 1}), [1, "env", "A"], id="env number"),
        ],
    )
    def test_an_entry_that_could_not_start_is_named(
        self, plane: FakePlane, wrong: Any, path: list[Any]
    ):
        """All or nothing, and the answer says which entry and which field."""
        refused = post(plane, [entry("a"), wrong])

        assert 400 == refused.status_code
        assert path in [issue["path"] for issue in refused.json()["issues"]]
        assert {} == plane.registry.agents

    def test_what_the_registry_refuses_is_said(self, plane: FakePlane):
        """The gateway has no rules of its own: the registry's word counts."""
        plane.registry.fail = ServiceError(
            Reason.FIELD_INVALID, "cannot take two entries of one agent", field="agent"
        )

        refused = post(plane, [entry("a"), entry("a")])

        assert 400 == refused.status_code
        assert "cannot take two entries of one agent" == refused.json()["error"]

    def test_a_list_beyond_the_limit_is_refused(self, plane: FakePlane):
        """Bodies that are looked at whole are bounded; a stated length suffices."""
        body = b"[" + b" " * (4 * 1024 * 1024) + b"]"

        refused = post(plane, body)

        assert 413 == refused.status_code
        assert refused.json()["success"] is False


class TestDrain:
    def eviction(self, plane: FakePlane, **headers: str) -> Any:
        path = "/api/towns/town-1/container-eviction"
        return plane.request("POST", path, plane.tokens.container(), headers=headers)

    def status(self, plane: FakePlane) -> Any:
        path = "/api/towns/town-1/drain-status"
        return plane.request("GET", path, plane.tokens.container()).json()["data"]

    def ready(self, plane: FakePlane, **options: Any) -> Any:
        path = "/api/towns/town-1/container-ready"
        return plane.request("POST", path, plane.tokens.container(), **options)

    def test_a_drain_is_announced_and_cleared_by_its_nonce(self, plane: FakePlane):
        """The original's three routes, told in order."""
        assert {"draining": False, "drainNonce": None} == self.status(plane)

        announced = self.eviction(plane).json()
        assert {"acknowledged": True, "drainNonce": "nonce-1"} == announced["data"]
        assert {"draining": True, "drainNonce": "nonce-1"} == self.status(plane)

        wrong = self.ready(plane, json={"nonce": "other"})
        assert {"success": True, "data": {"cleared": False}} == wrong.json()
        assert self.status(plane)["draining"]

        right = self.ready(plane, json={"nonce": "nonce-1"})
        assert {"success": True, "data": {"cleared": True}} == right.json()
        assert not self.status(plane)["draining"]

    def test_an_eviction_binds_to_the_instance_in_its_header(self, plane: FakePlane):
        """One container of a pool leaves; the others stay."""
        self.eviction(plane, **{"x-townkeeper-instance": "slot-1"})

        assert ["towns/town-1/instances/slot-1"] == plane.registry.bound

    @pytest.mark.parametrize(
        ("instance", "status"), [("", 400), ("a/b", 400), ("unknown", 404)]
    )
    def test_an_instance_that_is_none_binds_nothing(
        self, plane: FakePlane, instance: str, status: int
    ):
        """A mistyped name must not drain the whole town."""
        refused = self.eviction(plane, **{"x-townkeeper-instance": instance})

        assert status == refused.status_code
        assert [] == plane.registry.bound

    @pytest.mark.parametrize("body", [b"", b"{}", b'{"nonce": ""}', b'{"nonce": null}'])
    def test_ready_needs_a_nonce(self, plane: FakePlane, body: bytes):
        """In the original's words."""
        refused = self.ready(plane, content=body)

        assert 400 == refused.status_code
        assert "Missing required field: nonce" == refused.json()["error"]

    def test_a_nonce_of_another_type_is_named(self, plane: FakePlane):
        """Wrong types come with their path."""
        refused = self.ready(plane, json={"nonce": 7})

        assert 400 == refused.status_code
        assert [["nonce"]] == [issue["path"] for issue in refused.json()["issues"]]
