"""What was acknowledged is there after everything died, with or without its disk."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from services.chassis.errors import rpc_errors
from tests.support import notes_agent
from tests.support.plane import PlaneProcess
from townkeeper.registry.v1 import registry_pb2
from townkeeper.registry.v1.resources_pb2 import Message

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

AGENT = "ada"
WIPE = pytest.mark.parametrize(
    "wipe",
    [
        pytest.param(False, id="disk kept"),
        pytest.param(True, id="disk wiped"),
    ],
)


def say(plane: PlaneProcess, message_id: str, text: str) -> None:
    """Accepted when it returns, no more."""
    request = registry_pb2.EnqueueMessageRequest(
        parent=plane.agent_name(AGENT), message_id=message_id, text=text
    )
    with rpc_errors():
        plane.registry().EnqueueMessage(request)


def message_states(plane: PlaneProcess) -> dict[str, str]:
    request = registry_pb2.ListMessagesRequest(parent=plane.agent_name(AGENT))
    return {
        one.name.rpartition("/")[2]: Message.State.Name(one.state)
        for one in plane.registry().ListMessages(request).messages
    }


def generations(plane: PlaneProcess) -> list[dict[str, Any]]:
    """Every saved state, as the service tells of it."""
    listed: list[dict[str, Any]] = json.loads(
        plane.run("snapshots", "list", AGENT, "--json")
    )
    return listed


@WIPE
def test_an_agent_is_back_by_itself_with_its_data(
    plane: PlaneProcess, tmp_path: Path, wipe: bool
) -> None:
    """Everything is killed in the instant after a message was accepted: the agent comes
    back by itself, remembers, and gets that message exactly once."""
    notes_agent.start(plane, AGENT)
    say(plane, "m1", "the town is quiet")
    plane.wait_settled(AGENT, "m1")
    saved = generations(plane)
    say(plane, "m2", "and now everything dies")

    plane.kill_everything(wipe=wipe)
    plane.start()
    run = plane.wait_running(AGENT)
    settled = plane.wait_settled(AGENT, "m2")

    expected = {"m1": "the town is quiet", "m2": "and now everything dies"}
    assert expected == notes_agent.notes(plane, AGENT, tmp_path / "notes.db")
    assert Message.STATE_DELIVERED == settled.state
    assert run.epoch == 2
    assert saved == generations(plane)[-len(saved) :]
    assert not (tmp_path / "notes.db-wal").exists()


@WIPE
def test_nothing_acknowledged_is_lost(plane: PlaneProcess, wipe: bool) -> None:
    """Lists, messages, and saved states are after a power cut what they were before."""
    worker = plane.http("container")
    town, opaque = f"/api/towns/{plane.town}", b"no database" * 1000
    other = f"{town}/rigs/rig-1/agents/zoe/db-snapshot"
    notes_agent.start(plane, AGENT)
    say(plane, "m1", "hello")
    plane.wait_settled(AGENT, "m1")
    entries = [
        notes_agent.entry("bea", plane.town),
        notes_agent.entry("cid", plane.town),
    ]
    assert worker.post(f"{town}/container-registry", json=entries).is_success
    assert worker.post(other, content=opaque).is_success
    registered, states = plane.run("agents", "list", "--json"), message_states(plane)

    plane.kill_everything(wipe=wipe)
    plane.start()

    worker = plane.http("container")
    assert {"m1": "STATE_DELIVERED"} == states == message_states(plane)
    assert opaque == worker.get(other).content
    listed = worker.get(f"{town}/container-registry").json()["data"]
    assert entries == [one for one in listed if one["agentId"] in ("bea", "cid")]
    names = [one["name"] for one in json.loads(registered)]
    assert names == [
        one["name"] for one in json.loads(plane.run("agents", "list", "--json"))
    ]
    # What a worker put on the list runs now: a container booted.
    plane.wait_running("bea")
    plane.wait_running("cid")


def test_a_container_dies_alone(plane: PlaneProcess, tmp_path: Path) -> None:
    """Only the container is killed, its disk with it: the plane boots a new one, and
    the agent is back in it with a new epoch."""
    notes_agent.start(plane, AGENT)
    say(plane, "m1", "one")
    plane.wait_settled(AGENT, "m1")
    before = plane.wait_running(AGENT)

    killed = plane.kill_container(wipe=True)

    assert before.pid in {one.pid for one in killed}
    after = plane.wait_running(AGENT)
    assert (before.epoch + 1, True) == (after.epoch, after.resumed)
    assert {"m1": "one"} == notes_agent.notes(plane, AGENT, tmp_path / "notes.db")


@pytest.mark.parametrize(
    "end",
    [
        pytest.param(lambda plane: plane.stop(), id="stopped"),
        pytest.param(lambda plane: plane.kill_up(), id="only up killed"),
        pytest.param(lambda plane: plane.kill_everything(), id="power off"),
    ],
)
def test_started_again_it_carries_on(
    plane: PlaneProcess, tmp_path: Path, end: Callable[[PlaneProcess], object]
) -> None:
    """However `up` ended, on the same directory its agents run again, one process
    each, and nothing is noted twice."""
    notes_agent.start(plane, AGENT)
    say(plane, "m1", "one")
    plane.wait_settled(AGENT, "m1")
    before = plane.processes()

    end(plane)
    plane.start()
    plane.wait_running(AGENT)
    say(plane, "m2", "two")
    plane.wait_settled(AGENT, "m2")

    assert {"m1": "one", "m2": "two"} == notes_agent.notes(
        plane, AGENT, tmp_path / "notes.db"
    )
    assert [] == [one for one in before if one.alive]
