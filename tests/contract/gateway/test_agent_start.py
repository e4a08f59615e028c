"""Starting an agent: the whole request goes through, no secret comes back."""

from __future__ import annotations

import json
from typing import Any

import pytest

from services.chassis.errors import Reason, ServiceError
from tests.contract.gateway.fake_plane import FakePlane
from tests.contract.gateway.fake_plane import call_as_user as call
from tests.support.waiting import wait_until_sync
from townkeeper.registry.v1 import resources_pb2 as registry

CONTAINER = "/api/towns/town-1/container"
START = {
    "agentId": "one",
    "rigId": "rig-1",
    "townId": "town-1",
    "role": "polecat",
    "name": "One",
    "identity": "one-1",
    "prompt": "hello",
    "model": "p/m",
    "smallModel": "p/s",
    "systemPrompt": "be kind",
    "gitUrl": "https://example.org/r.git",
    "branch": "b",
    "defaultBranch": "main",
    "envVars": {"SECRET": "s3cret"},
    "startPoint": "HEAD",
    "lightweight": False,
    "organizationId": None,
    "rigs": [{"rigId": "r", "gitUrl": "g", "defaultBranch": "main"}],
    "runtime": "exec",
    "command": ["prog", "-x"],
    "database": "a.db",
    "resume": "latest",
    "somethingNew": {"kept": False},
}


class TestStart:
    def start(self, plane: FakePlane, **changes: Any) -> Any:
        # Escaped: JSON can spell what no client library would encode.
        body = json.dumps(START | changes)
        return call(plane, "POST", f"{CONTAINER}/agents/start", content=body)

    def test_the_whole_request_reaches_the_supervisor(self, plane: FakePlane):
        """Every field of the original's request, and those that are new."""
        started = self.start(plane)

        assert 201 == started.status_code
        (spec,) = plane.supervisor.specs
        assert (
            registry.AgentSpec(
                rig_id="rig-1",
                role=registry.ROLE_POLECAT,
                display_name="One",
                identity="one-1",
                prompt="hello",
                model="p/m",
                small_model="p/s",
                system_prompt="be kind",
                git_url="https://example.org/r.git",
                branch="b",
                default_branch="main",
                env_vars={"SECRET": "s3cret"},
                start_point="HEAD",
                rigs=[registry.RigRef(rig_id="r", git_url="g", default_branch="main")],
                runtime=registry.RUNTIME_EXEC,
                command=["prog", "-x"],
                database="a.db",
                resume=registry.RESUME_LATEST,
            )
            == spec
        )

    def test_the_answer_is_a_record_without_secrets(self, plane: FakePlane):
        """The original gave all tokens away in it."""
        started = self.start(plane)

        assert "s3cret" not in started.text
        record = started.json()
        assert {
            "agentId": "one",
            "rigId": "rig-1",
            "townId": "town-1",
            "role": "polecat",
            "name": "One",
            "status": "running",
            "serverPort": 4096,
            "workdir": "/home/w",
            "startedAt": "2026-01-02T03:04:05.000Z",
            "exitReason": None,
            "instanceId": "slot-1",
        }.items() <= record.items()
        assert not {"startupEnv", "startupRequest", "success"} & record.keys()

    @pytest.mark.parametrize(
        ("changes", "path"),
        [
            ({"agentId": None}, ["agentId"]),
            ({"agentId": 1}, ["agentId"]),
            ({"prompt": 1}, ["prompt"]),
            ({"prompt": "\ud800"}, ["prompt"]),
            ({"role": "king"}, ["role"]),
            ({"role": 1}, ["role"]),
            ({"runtime": "java"}, ["runtime"]),
            ({"resume": "maybe"}, ["resume"]),
            ({"envVars": []}, ["envVars"]),
            ({"envVars": {"A": 1}}, ["envVars", "A"]),
            ({"lightweight": "yes"}, ["lightweight"]),
            ({"command": "prog"}, ["command"]),
            ({"command": ["prog", 1]}, ["command", 1]),
            ({"rigs": {}}, ["rigs"]),
            ({"rigs": ["r"]}, ["rigs", 0]),
            ({"rigs": [{"rigId": 1}]}, ["rigs", 0, "rigId"]),
            ({"townId": "town-2"}, ["townId"]),
        ],
    )
    def test_wrong_types_are_named_and_start_nothing(
        self, plane: FakePlane, changes: dict[str, Any], path: list[Any]
    ):
        """400 with the path of every wrong field, no envelope."""
        refused = self.start(plane, **changes)

        assert 400 == refused.status_code
        assert "success" not in refused.json()
        assert [path] == [issue["path"] for issue in refused.json()["issues"]]
        assert [] == plane.supervisor.specs

    @pytest.mark.parametrize("agent", ["", "a/b", "..", ".a", "a b", "x" * 129])
    def test_an_id_that_is_none_starts_nothing(self, plane: FakePlane, agent: str):
        """Ids become names of files and keys."""
        assert 400 == self.start(plane, agentId=agent).status_code
        assert [] == plane.supervisor.specs

    @pytest.mark.parametrize("body", [b"", b"{", b"[]", b"1", b'{"a": Infinity}'])
    def test_a_body_that_is_no_object_starts_nothing(
        self, plane: FakePlane, body: bytes
    ):
        """Malformed JSON is the client's mistake, not a crash."""
        path = f"{CONTAINER}/agents/start"

        refused = call(plane, "POST", path, content=body)

        assert 400 == refused.status_code
        assert "error" in refused.json()

    @pytest.mark.parametrize(
        ("reason", "status", "text"),
        [
            (Reason.EXEC_DISABLED, 403, "cannot x"),
            (Reason.DRAINING, 503, "Container is draining, cannot start new agents"),
            (Reason.START_FAILED, 500, "cannot x"),
            (Reason.LEASE_HELD, 409, "cannot x; the holder is slot-9"),
            (Reason.TOO_MANY_RUNS, 429, "cannot x"),
            (Reason.RUNTIME_MISSING, 409, "cannot x"),
        ],
    )
    def test_what_the_supervisor_refuses(
        self, plane: FakePlane, reason: Reason, status: int, text: str
    ):
        """Each refusal has its status, and says what to do."""
        holder = "slot-9" if reason is Reason.LEASE_HELD else None
        plane.supervisor.refuse = ServiceError(reason, "cannot x", holder=holder)

        refused = self.start(plane)

        assert status == refused.status_code
        assert text == refused.json()["error"]
        assert reason.name == refused.headers["x-townkeeper-reason"]

    def test_a_missing_field_is_named_as_json_spells_it(self, plane: FakePlane):
        """`spec.git_url` of the proto is `gitUrl` here."""
        plane.supervisor.refuse = ServiceError(
            Reason.FIELD_REQUIRED, "cannot start without", field="spec.git_url"
        )

        refused = self.start(plane)

        assert 400 == refused.status_code
        assert [{"path": ["gitUrl"], "message": "cannot start without"}] == (
            refused.json()["issues"]
        )

    def test_a_town_without_containers_is_unavailable(self, plane: FakePlane):
        """Not an unknown agent: 503, try again."""
        plane.registry.instances = []

        refused = self.start(plane)

        assert 503 == refused.status_code
        assert "1" == refused.headers["retry-after"]

    def test_a_client_that_leaves_cancels_its_start(self, plane: FakePlane):
        """The gateway goes on with nothing that nobody waits for."""
        plane.supervisor.hold = True

        with pytest.raises(Exception, match="timed out"):
            call(plane, "POST", f"{CONTAINER}/agents/start", START, timeout=0.3)

        wait_until_sync(lambda: plane.supervisor.cancelled == 1)
