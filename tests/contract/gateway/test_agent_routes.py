"""Stop, message, model, status, events, health: bare, as the container said them."""

from __future__ import annotations

from typing import Any

import pytest

from tests.contract.gateway.fake_plane import FakePlane
from tests.contract.gateway.fake_plane import call_as_user as call
from tests.contract.gateway.fake_supervisor import Run
from townkeeper.registry.v1 import resources_pb2 as registry
from townkeeper.supervisor.v1 import resources_pb2 as res

CONTAINER = "/api/towns/town-1/container"
ONE = f"{CONTAINER}/agents/one"


class TestStop:
    def test_a_running_agent_is_stopped(self, plane: FakePlane):
        """As the container said it."""
        plane.registry.add("one")
        plane.supervisor.run("one")

        stopped = call(plane, "POST", f"{ONE}/stop", {"signal": "SIGTERM"})

        assert (200, {"stopped": True}) == (stopped.status_code, stopped.json())

    def test_a_stopped_agent_has_stopped(self, plane: FakePlane):
        """Also when its supervisor has forgotten it, or is gone."""
        plane.registry.add("one", state=registry.Agent.STATE_ENDED)
        plane.registry.instances = []

        assert {"stopped": True} == call(plane, "POST", f"{ONE}/stop").json()

    def test_an_unknown_agent_is_not_found(self, plane: FakePlane):
        """404, bare."""
        refused = call(plane, "POST", f"{ONE}/stop")

        assert 404 == refused.status_code
        assert ["error"] == list(refused.json())

    def test_an_agent_that_nobody_has_taken_yet_is_not_said_to_be_stopped(
        self, plane: FakePlane
    ):
        """It would be started a moment later."""
        plane.registry.add("one")

        assert 409 == call(plane, "POST", f"{ONE}/stop").status_code


class TestMessage:
    def send(self, plane: FakePlane, body: Any, **headers: str) -> Any:
        return call(plane, "POST", f"{ONE}/message", body, headers=headers)

    def test_a_message_is_accepted(self, plane: FakePlane):
        """Into the inbox, whether the agent runs or not."""
        plane.registry.add("one")

        sent = self.send(plane, {"prompt": "hi"})

        (message,) = plane.registry.inbox.values()
        assert "hi" == message.text
        assert {"sent": True, "messageId": message.name.rpartition("/")[2]} == (
            sent.json()
        )

    def test_without_a_key_each_is_a_message_of_its_own(self, plane: FakePlane):
        """Under an id of ours: a call that the channel repeats is still one."""
        plane.registry.add("one")

        ids = {self.send(plane, {"prompt": "hi"}).json()["messageId"] for _ in "12"}

        assert 2 == len(ids) == len(plane.registry.inbox)
        assert "" not in ids

    def test_the_same_key_twice_is_one_message(self, plane: FakePlane):
        """A client that heard no answer asks again."""
        plane.registry.add("one")
        key = {"idempotency-key": "key-1"}

        first = self.send(plane, {"prompt": "hi"}, **key)
        second = self.send(plane, {"prompt": "hi"}, **key)

        assert (200, first.json()) == (second.status_code, second.json())
        assert ["towns/town-1/agents/one/messages/key-1"] == list(plane.registry.inbox)

    def test_one_key_for_two_messages_is_refused(self, plane: FakePlane):
        """Else the second would silently be lost."""
        plane.registry.add("one")
        self.send(plane, {"prompt": "hi"}, **{"idempotency-key": "key-1"})

        refused = self.send(plane, {"prompt": "ho"}, **{"idempotency-key": "key-1"})

        assert 409 == refused.status_code

    @pytest.mark.parametrize("key", ["", "a/b", "a b", "..", "x" * 129])
    def test_a_key_that_is_no_id_is_refused(self, plane: FakePlane, key: str):
        """It becomes part of the message's name."""
        plane.registry.add("one")

        refused = self.send(plane, {"prompt": "hi"}, **{"idempotency-key": key})

        assert 400 == refused.status_code
        assert {} == plane.registry.inbox

    @pytest.mark.parametrize("body", [{}, {"prompt": ""}, {"prompt": 1}, {"text": "x"}])
    def test_a_message_says_something(self, plane: FakePlane, body: Any):
        """`prompt` is text, and there is some."""
        plane.registry.add("one")

        refused = self.send(plane, body)

        assert 400 == refused.status_code
        assert ["prompt"] == refused.json()["issues"][0]["path"]

    def test_an_unknown_agent_gets_none(self, plane: FakePlane):
        """404, and nothing is kept."""
        assert 404 == self.send(plane, {"prompt": "hi"}).status_code


class TestModel:
    def change(self, plane: FakePlane, body: Any) -> Any:
        return call(plane, "PATCH", f"{ONE}/model", body)

    def test_a_running_agent_gets_it_now(self, plane: FakePlane):
        """Through its supervisor."""
        plane.registry.add("one")
        run = plane.supervisor.run("one")

        changed = self.change(plane, {"model": "p/new", "conversationHistory": "x"})

        assert (200, {"updated": True}) == (changed.status_code, changed.json())
        assert "p/new" == run.model

    def test_an_agent_that_rests_gets_it_at_its_next_start(self, plane: FakePlane):
        """Through its record."""
        agent = plane.registry.add("one", state=registry.Agent.STATE_ENDED)

        changed = self.change(plane, {"model": "p/new", "smallModel": "p/s"})

        assert 200 == changed.status_code
        assert ("p/new", "p/s") == (agent.spec.model, agent.spec.small_model)

    @pytest.mark.parametrize("body", [{}, {"model": ""}, {"model": 1}, {"model": None}])
    def test_a_model_has_a_name(self, plane: FakePlane, body: Any):
        """400 with the path."""
        refused = self.change(plane, body)

        assert 400 == refused.status_code
        assert ["model"] == refused.json()["issues"][0]["path"]

    def test_an_unknown_agent_has_none(self, plane: FakePlane):
        """404."""
        assert 404 == self.change(plane, {"model": "p/m"}).status_code


class TestStatus:
    def status(self, plane: FakePlane) -> Any:
        return call(plane, "GET", f"{ONE}/status")

    def test_of_a_run(self, plane: FakePlane):
        """The original's fields, and ours."""
        plane.registry.add("one")
        plane.supervisor.run(
            "one",
            session_id="ses_1",
            active_tools=["bash"],
            message_count=3,
            generation=7,
            lag_seconds=0.5,
            resumed=True,
            interrupted=True,
        )

        assert {
            "agentId": "one",
            "status": "running",
            "serverPort": 4096,
            "sessionId": "ses_1",
            "startedAt": "2026-01-02T03:04:05.000Z",
            "lastActivityAt": None,
            "activeTools": ["bash"],
            "messageCount": 3,
            "exitReason": None,
            "error": None,
            "instanceId": "slot-1",
            "epoch": 1,
            "generation": 7,
            "lastSavedAt": None,
            "lagSeconds": 0.5,
            "resumed": True,
            "interrupted": True,
        } == self.status(plane).json()

    @pytest.mark.parametrize(
        ("state", "word"),
        [
            (Run.STATE_HYDRATING, "starting"),
            (Run.STATE_STARTING, "starting"),
            (Run.STATE_BACKOFF, "starting"),
            (Run.STATE_RUNNING, "running"),
            (Run.STATE_STOPPING, "stopping"),
            (Run.STATE_SAVING, "stopping"),
            (Run.STATE_EXITED, "exited"),
            (Run.STATE_FAILED, "failed"),
            (99, "starting"),
        ],
    )
    def test_states_in_the_originals_words(
        self, plane: FakePlane, state: int, word: str
    ):
        """Clients know five."""
        plane.registry.add("one")
        plane.supervisor.run("one", state=state)

        assert word == self.status(plane).json()["status"]

    def test_of_an_agent_that_has_ended(self, plane: FakePlane):
        """From the records: how it ended, its session, what is saved."""
        plane.registry.add(
            "one", state=registry.Agent.STATE_ENDED, end_reason="completed"
        )
        plane.snapshots.keep("one", b"x")

        status = self.status(plane).json()

        assert {
            "status": "exited",
            "exitReason": "completed",
            "sessionId": "ses_1",
            "generation": 1,
            "lastSavedAt": "2026-01-02T03:04:05.678Z",
            "instanceId": None,
        }.items() <= status.items()

    def test_of_an_agent_whose_container_is_gone(self, plane: FakePlane):
        """It must run and will: `starting`, not an error."""
        plane.registry.add("one")
        plane.registry.leased.add("towns/town-1/agents/one")
        plane.registry.instances[0].address = "127.0.0.1:1"

        assert "starting" == self.status(plane).json()["status"]

    def test_a_run_of_an_earlier_epoch_is_history(self, plane: FakePlane):
        """Another instance had the agent since."""
        lease = registry.Lease(epoch=2)
        plane.registry.add("one", state=registry.Agent.STATE_ENDED, lease=lease)
        plane.supervisor.run("one", epoch=1)

        assert ("exited", 2) == (
            self.status(plane).json()["status"],
            self.status(plane).json()["epoch"],
        )

    def test_of_an_unknown_agent(self, plane: FakePlane):
        """404."""
        assert 404 == self.status(plane).status_code


class TestEvents:
    def add(
        self, plane: FakePlane, sequence: int, agent: str = "one", **data: Any
    ) -> None:
        event = res.Event(
            sequence=sequence, agent=f"towns/town-1/agents/{agent}", type="tool.done"
        )
        event.data.update(data)
        event.event_time.FromJsonString("2026-01-02T03:04:05.678Z")
        plane.supervisor.events.append(event)

    def events(self, plane: FakePlane, query: str = "") -> Any:
        return call(plane, "GET", f"{ONE}/events{query}").json()["events"]

    def test_events_after_an_id(self, plane: FakePlane):
        """As the container kept them: id, event, data, time."""
        self.add(plane, 1)
        self.add(plane, 2, agent="two")
        self.add(plane, 3, ms=1767323045678, ratio=0.5, none=None, deep={"l": [1]})

        assert [
            {
                "id": 3,
                "event": "tool.done",
                "data": {
                    "ms": 1767323045678,
                    "ratio": 0.5,
                    "none": None,
                    "deep": {"l": [1]},
                },
                "timestamp": "2026-01-02T03:04:05.678Z",
            }
        ] == self.events(plane, "?after=1")

    @pytest.mark.parametrize("after", ["", "?after=", "?after=x", "?after=-1", "?x=1"])
    def test_an_unreadable_id_is_none(self, plane: FakePlane, after: str):
        """As the original took it."""
        self.add(plane, 1)

        assert [1] == [event["id"] for event in self.events(plane, after)]

    def test_an_unknown_agent_has_none(self, plane: FakePlane):
        """An empty list, no error; also without a container."""
        assert [] == self.events(plane)
        plane.registry.instances = []
        assert [] == self.events(plane)


class TestHealth:
    def test_the_containers_of_a_town_as_one(self, plane: FakePlane):
        """Agents that live, servers they have, since when."""
        plane.supervisor.run("one")
        plane.supervisor.run("two", port=0)
        plane.supervisor.run("three", state=Run.STATE_EXITED)

        health = call(plane, "GET", f"{CONTAINER}/health").json()

        assert ("ok", 2, 1) == (health["status"], health["agents"], health["servers"])
        assert health["uptime"] > 0
        assert "draining" not in health

    def test_a_draining_container_says_so(self, plane: FakePlane):
        """As the original does."""
        plane.registry.instances[0].state = registry.Instance.STATE_DRAINING

        assert call(plane, "GET", f"{CONTAINER}/health").json()["draining"] is True

    def test_expired_containers_do_not_count(self, plane: FakePlane):
        """None alive: 503."""
        plane.registry.instances[0].state = registry.Instance.STATE_EXPIRED

        assert 503 == call(plane, "GET", f"{CONTAINER}/health").status_code
