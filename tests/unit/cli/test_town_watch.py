"""`townkeeper agents watch` without an agent."""

import json

import pytest

from services.chassis.errors import Reason, ServiceError
from services.cli import town_watch
from tests.support.canned_services import Answer
from tests.unit.cli.conftest import CommandLine
from townkeeper.registry.v1.registry_pb2 import WatchAgentsRequest, WatchAgentsResponse
from townkeeper.registry.v1.resources_pb2 import Agent, Lease

NAME = "towns/town-1/agents/ada"
AWAY = ServiceError(Reason.SHUTTING_DOWN, "cannot take the call: try again")
ADA = Agent(
    name=NAME,
    state=Agent.STATE_ACTIVE,
    generation=41,
    lease=Lease(epoch=3, instance="towns/town-1/instances/one", live=True),
)
LISTED = WatchAgentsResponse(changed=ADA, resume_token="1")
SYNCED = WatchAgentsResponse(synced=True, resume_token="2")
GONE = WatchAgentsResponse(deregistered=NAME, resume_token="3")


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(town_watch, "AGAIN_EVERY_S", 0.0)


def cut_after_one(request: WatchAgentsRequest) -> Answer:
    """A stream that is cut behind its first step, and goes on by that one's token."""
    return [SYNCED, GONE] if request.resume_token == "1" else [LISTED, AWAY]


def test_each_change_is_one_line(townkeeper: CommandLine) -> None:
    """A person sees who runs an agent now, and which one went."""
    townkeeper.services.answers["WatchAgents"] = [LISTED, SYNCED, GONE]

    assert 0 == townkeeper("agents", "watch")

    assert [
        "changed       ada  active, instance one, epoch 3, generation 41, messages 0",
        "synced",
        "deregistered  ada",
    ] == townkeeper.out.splitlines()
    assert "towns/town-1" == townkeeper.services.asked(WatchAgentsRequest).parent


def test_changes_for_programs_are_json_lines(townkeeper: CommandLine) -> None:
    """Each with the token to go on from; the one that is given is sent."""
    townkeeper.services.answers["WatchAgents"] = [LISTED, GONE]

    assert 0 == townkeeper("agents", "watch", "--json", "--resume-token=t")

    first, second = map(json.loads, townkeeper.out.splitlines())
    assert (41, "1") == (first["changed"]["generation"], first["resumeToken"])
    assert {"deregistered": NAME, "resumeToken": "3"} == second
    assert "t" == townkeeper.services.asked(WatchAgentsRequest).resume_token


def test_the_list_alone_ends_when_it_is_complete(townkeeper: CommandLine) -> None:
    """`--no-follow` waits for no change."""
    townkeeper.services.answers["WatchAgents"] = [LISTED, SYNCED, GONE]

    assert 0 == townkeeper("agents", "watch", "--no-follow", "--json")

    assert 2 == len(townkeeper.out.splitlines())


def test_it_goes_on_where_it_was_cut(townkeeper: CommandLine) -> None:
    """A registry that restarts is waited for; nothing is printed twice."""
    townkeeper.services.answers["WatchAgents"] = cut_after_one

    assert 0 == townkeeper("agents", "watch", "--json")

    tokens = [json.loads(one)["resumeToken"] for one in townkeeper.out.splitlines()]
    assert ["1", "2", "3"] == tokens


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param([AWAY], id="never there"),
        pytest.param(
            [LISTED, ServiceError(Reason.RESUME_TOKEN_EXPIRED, "cannot go on: no")],
            id="expired",
        ),
    ],
)
def test_it_ends_where_going_on_would_be_wrong(
    townkeeper: CommandLine, answer: Answer
) -> None:
    """A registry that was never reached, a token that leads nowhere."""
    townkeeper.services.answers["WatchAgents"] = answer

    assert 1 == townkeeper("agents", "watch")

    assert townkeeper.err.startswith("cannot")
