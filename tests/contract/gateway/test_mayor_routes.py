"""The mayor: configured, ensured, spoken to, destroyed; found by its role."""

from __future__ import annotations

from typing import Any

import pytest

from services.chassis.errors import Reason, ServiceError
from tests.contract.gateway.fake_plane import FakePlane
from tests.contract.gateway.fake_plane import call_as_user as call
from tests.contract.gateway.fake_supervisor import Run
from townkeeper.registry.v1 import resources_pb2 as registry

MAYOR = "/api/towns/town-1/mayor"
SPEC = registry.AgentSpec(role=registry.ROLE_MAYOR, model="p/m")
State = registry.Agent


def post(plane: FakePlane, what: str, json: Any = None, **options: Any) -> Any:
    return call(plane, "POST", f"{MAYOR}/{what}", json, **options)


def status(plane: FakePlane) -> Any:
    return call(plane, "GET", f"{MAYOR}/status").json()["data"]


class TestConfigure:
    def test_stores_how_to_start_without_starting(self, plane: FakePlane):
        """Role and rig follow from whose route it is."""
        stored = post(plane, "configure", {"model": "p/m", "lightweight": True})

        assert {"configured": True, "agentId": "mayor"} == stored.json()["data"]
        (agent,) = plane.registry.agents.values()
        assert State.STATE_CONFIGURED == agent.state
        assert (registry.ROLE_MAYOR, "mayor-town-1", "p/m") == (
            agent.spec.role,
            agent.spec.rig_id,
            agent.spec.model,
        )
        assert {} == plane.supervisor.runs

    def test_keeps_the_id_that_the_mayor_has(self, plane: FakePlane):
        """A town has one mayor."""
        plane.registry.add("m-7", spec=SPEC)

        stored = post(plane, "configure", {"model": "p/new"})

        assert "m-7" == stored.json()["data"]["agentId"]
        assert ["towns/town-1/agents/m-7"] == list(plane.registry.agents)

    def test_takes_the_id_that_is_given(self, plane: FakePlane):
        """The worker's own ids are kept."""
        stored = post(plane, "configure", {"agentId": "m-9"})

        assert "m-9" == stored.json()["data"]["agentId"]

    @pytest.mark.parametrize(
        ("body", "path"),
        [({"role": "polecat"}, ["role"]), ({"model": 1}, ["model"]), ([], [])],
    )
    def test_what_no_mayor_can_be_started_from(self, plane: FakePlane, body: Any, path):
        """400 in the envelope, with the path."""
        refused = post(plane, "configure", body)

        assert 400 == refused.status_code
        assert refused.json()["success"] is False
        assert path == refused.json()["issues"][0]["path"]
        assert {} == plane.registry.agents


class TestEnsure:
    @pytest.mark.parametrize(
        "state", [State.STATE_CONFIGURED, State.STATE_ENDED, State.STATE_ACTIVE]
    )
    def test_starts_a_mayor_that_does_not_run(self, plane: FakePlane, state: int):
        """From what is stored: the request carries no spec."""
        plane.registry.add("mayor", state=state, spec=SPEC)

        ensured = post(plane, "ensure")

        assert {"agentId": "mayor", "sessionStatus": "idle"} == ensured.json()["data"]
        assert [None] == plane.supervisor.specs

    @pytest.mark.parametrize(
        ("state", "runtime", "word"),
        [
            (Run.STATE_RUNNING, "idle", "idle"),
            (Run.STATE_RUNNING, "busy", "active"),
            (Run.STATE_RUNNING, "retry", "active"),
            (Run.STATE_STARTING, "", "starting"),
            (Run.STATE_BACKOFF, "offline", "starting"),
        ],
    )
    def test_a_mayor_that_lives_is_left_alone(
        self, plane: FakePlane, state: int, runtime: str, word: str
    ):
        """And said how it is."""
        plane.registry.add("mayor", spec=SPEC)
        plane.supervisor.run("mayor", state=state, status=runtime)

        ensured = post(plane, "ensure")

        assert word == ensured.json()["data"]["sessionStatus"]
        assert [] == plane.supervisor.specs

    def test_a_mayor_that_nobody_configured_conflicts(self, plane: FakePlane):
        """409: nothing says how to start it."""
        refused = post(plane, "ensure")

        assert 409 == refused.status_code
        assert refused.json()["success"] is False

    def test_the_one_that_must_run_is_the_mayor(self, plane: FakePlane):
        """Of several on record, over all pages, the active one counts."""
        plane.registry.add("old", state=State.STATE_ENDED, spec=SPEC)
        plane.registry.add("now", spec=SPEC)
        plane.registry.add("new", state=State.STATE_CONFIGURED, spec=SPEC)
        plane.registry.add("other", spec=registry.AgentSpec(role=registry.ROLE_TRIAGE))

        assert "now" == post(plane, "ensure").json()["data"]["agentId"]

    def test_a_failing_start_says_why(self, plane: FakePlane):
        """With the supervisor's own status."""
        plane.registry.add("mayor", spec=SPEC)
        plane.supervisor.refuse = ServiceError(Reason.EXEC_DISABLED, "cannot run exec")

        refused = post(plane, "ensure")

        assert (403, "cannot run exec") == (
            refused.status_code,
            refused.json()["error"],
        )


class TestMessage:
    def test_a_mayor_that_runs_gets_it(self, plane: FakePlane):
        """Into the inbox, with the model of this turn."""
        plane.registry.add("mayor", spec=SPEC)
        plane.supervisor.run("mayor")

        sent = post(plane, "message", {"message": "hi", "model": "p/turn"})

        (message,) = plane.registry.inbox.values()
        assert ("hi", "p/turn") == (message.text, message.model)
        assert {
            "agentId": "mayor",
            "sessionStatus": "active",
            "messageId": message.name.rpartition("/")[2],
        } == sent.json()["data"]

    def test_a_mayor_that_rests_is_started(self, plane: FakePlane):
        """The message has to start it."""
        plane.registry.add("mayor", state=State.STATE_CONFIGURED, spec=SPEC)

        sent = post(plane, "message", {"message": "hi"})

        assert "starting" == sent.json()["data"]["sessionStatus"]
        assert [None] == plane.supervisor.specs
        assert 1 == len(plane.registry.inbox)

    def test_a_failing_start_loses_no_message(self, plane: FakePlane):
        """Accepted first, started then: with the same key it can be sent again."""
        plane.registry.add("mayor", state=State.STATE_ENDED, spec=SPEC)
        plane.supervisor.refuse = ServiceError(Reason.START_FAILED, "cannot start")
        headers = {"idempotency-key": "key-1"}

        refused = post(plane, "message", {"message": "hi"}, headers=headers)
        plane.supervisor.refuse = None
        repeated = post(plane, "message", {"message": "hi"}, headers=headers)

        assert (500, 200) == (refused.status_code, repeated.status_code)
        assert ["towns/town-1/agents/mayor/messages/key-1"] == list(
            plane.registry.inbox
        )

    def test_the_context_of_the_page_goes_before_it(self, plane: FakePlane):
        """The mayor reads what the user sees, then what the user says."""
        plane.registry.add("mayor", spec=SPEC)
        plane.supervisor.run("mayor")

        post(plane, "message", {"message": "hi", "uiContext": "<page/>"})

        (message,) = plane.registry.inbox.values()
        assert "<page/>\n\nhi" == message.text

    @pytest.mark.parametrize(
        ("body", "path"),
        [
            ({}, ["message"]),
            ({"message": ""}, ["message"]),
            ({"message": ["hi"]}, ["message"]),
            ({"message": "hi", "model": 1}, ["model"]),
            ({"message": "hi", "uiContext": "x" * 10_001}, ["uiContext"]),
        ],
    )
    def test_what_is_no_message(self, plane: FakePlane, body: Any, path: list[str]):
        """400, nothing accepted, nothing started."""
        plane.registry.add("mayor", state=State.STATE_ENDED, spec=SPEC)

        refused = post(plane, "message", body)

        assert 400 == refused.status_code
        assert path == refused.json()["issues"][0]["path"]
        assert {} == plane.registry.inbox
        assert [] == plane.supervisor.specs

    def test_nobody_to_speak_to_conflicts(self, plane: FakePlane):
        """409 while no mayor was ever configured."""
        assert 409 == post(plane, "message", {"message": "hi"}).status_code


class TestStatus:
    def test_of_a_town_without_mayor(self, plane: FakePlane):
        """Configured: no."""
        assert {"configured": False, "townId": "town-1", "session": None} == (
            status(plane)
        )

    @pytest.mark.parametrize("state", [State.STATE_CONFIGURED, State.STATE_ENDED])
    def test_of_a_mayor_that_rests(self, plane: FakePlane, state: int):
        """Configured, without a session."""
        plane.registry.add("mayor", state=state, spec=SPEC)

        assert {"configured": True, "townId": "town-1", "session": None} == (
            status(plane)
        )

    def test_of_a_mayor_that_runs(self, plane: FakePlane):
        """Its session: the original's fields, and ours."""
        plane.registry.add("mayor", spec=SPEC)
        plane.supervisor.run("mayor", session_id="ses_1", status="busy", generation=4)

        session = status(plane)["session"]

        assert {
            "agentId": "mayor",
            "sessionId": "ses_1",
            "status": "active",
            "lastActivityAt": None,
            "instanceId": "slot-1",
            "generation": 4,
        }.items() <= session.items()

    def test_of_a_mayor_whose_container_died(self, plane: FakePlane):
        """It is on its way back, with the session that was saved."""
        plane.registry.add("mayor", spec=SPEC)
        plane.registry.instances = []
        plane.snapshots.keep("mayor", b"x")

        session = status(plane)["session"]

        assert ("starting", "ses_1", 1) == (
            session["status"],
            session["sessionId"],
            session["generation"],
        )


class TestCompletedAndDestroy:
    def test_completed_is_taken_note_of(self, plane: FakePlane):
        """As the original answered."""
        noted = post(plane, "completed", {"status": "completed", "reason": "done"})

        assert {"success": True, "data": {"acknowledged": True}} == noted.json()

    def test_completed_has_a_status(self, plane: FakePlane):
        """400 with the path."""
        assert 400 == post(plane, "completed", {}).status_code

    def test_destroy_stops_and_ends(self, plane: FakePlane):
        """What was saved stays; ensure starts it again."""
        agent = plane.registry.add("mayor", spec=SPEC)
        run = plane.supervisor.run("mayor")

        destroyed = post(plane, "destroy")

        assert {"success": True, "data": {"destroyed": True}} == destroyed.json()
        assert (Run.STATE_EXITED, State.STATE_ENDED) == (run.state, agent.state)
        assert "idle" == post(plane, "ensure").json()["data"]["sessionStatus"]

    def test_destroying_nothing_is_done(self, plane: FakePlane):
        """So that it can be repeated."""
        assert {"destroyed": True} == post(plane, "destroy").json()["data"]
