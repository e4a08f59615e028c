"""Calls about nudges, over a real port."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration

from services.chassis.auth import Kind
from services.chassis.errors import Reason
from tests.support.registry_samples import MAYOR, SPEC
from tests.support.registry_server import Registry, refused
from townkeeper.registry.v1 import callbacks_pb2 as res
from townkeeper.registry.v1 import registry_pb2 as pb

LIST = pb.ListNudgesRequest(parent=str(MAYOR))


@pytest.fixture
async def agent(registry: Registry, stub: Any) -> Any:
    await registry.store.register_agent(MAYOR, SPEC)
    return stub


def enqueue(nudge_id: str = "n-1", ttl_s: float = 0, **nudge: Any) -> Any:
    content = res.Nudge(**{"text": "Look.", **nudge})
    request = pb.EnqueueNudgeRequest(
        parent=str(MAYOR), nudge_id=nudge_id, nudge=content
    )
    if ttl_s:
        request.ttl.CopyFrom(
            Duration(nanos=round(ttl_s * 1e9))
            if abs(ttl_s) < 1
            else Duration(seconds=round(ttl_s))
        )
    return request


async def test_a_nudge_goes_its_way(registry, agent):
    """Accepted, listed to the agent, delivered by it."""
    own = registry.stub(Kind.AGENT)
    kinds: dict[str, Any] = {
        "mode": res.Nudge.MODE_QUEUE,
        "priority": res.Nudge.PRIORITY_URGENT,
    }
    request = enqueue(ttl_s=60, source="patrol", **kinds)
    first = await registry.stub(Kind.USER).EnqueueNudge(request)
    again = await agent.EnqueueNudge(request)
    listed = await own.ListNudges(LIST)
    await own.AcknowledgeNudge(pb.AcknowledgeNudgeRequest(name=first.nudge.name))
    rest = await own.ListNudges(LIST)

    assert (True, False) == (first.created, again.created)
    assert first.nudge == again.nudge
    assert [first.nudge] == list(listed.nudges)
    assert [] == list(rest.nudges)
    assert (f"{MAYOR}/nudges/n-1", "Look.", "patrol", 3, 2) == (
        first.nudge.name,
        first.nudge.text,
        first.nudge.source,
        first.nudge.mode,
        first.nudge.priority,
    )
    lasts = first.nudge.expire_time.seconds - first.nudge.create_time.seconds
    assert 60 == lasts


async def test_what_is_not_said_is_the_usual(agent):
    """An id of the registry's, the mode and the priority of most nudges, no end."""
    answer = await agent.EnqueueNudge(enqueue(nudge_id=""))

    nudge = answer.nudge
    assert nudge.name.removeprefix(f"{MAYOR}/nudges/")
    assert (res.Nudge.MODE_WAIT_IDLE, res.Nudge.PRIORITY_NORMAL) == (
        nudge.mode,
        nudge.priority,
    )
    assert not nudge.HasField("expire_time")


@pytest.mark.parametrize(
    ("options", "reason", "field"),
    [
        ({"text": ""}, Reason.FIELD_REQUIRED, "nudge.text"),
        ({"text": "x" * 8193}, Reason.FIELD_INVALID, "nudge.text"),
        ({"source": "x" * 257}, Reason.FIELD_INVALID, "nudge.source"),
        ({"mode": 9}, Reason.FIELD_INVALID, "nudge.mode"),
        ({"priority": 9}, Reason.FIELD_INVALID, "nudge.priority"),
        ({"ttl_s": 60}, Reason.FIELD_INVALID, "ttl"),
        ({"ttl_s": 0.5, "mode": 3}, Reason.FIELD_INVALID, "ttl"),
        ({"ttl_s": -60, "mode": 3}, Reason.FIELD_INVALID, "ttl"),
        ({"ttl_s": 604_801, "mode": 3}, Reason.FIELD_INVALID, "ttl"),
    ],
)
async def test_a_nudge_outside_its_range_is_refused(agent, options, reason, field):
    """And none is accepted."""
    error = await refused(agent.EnqueueNudge(enqueue(**options)))

    assert (reason, field) == (error.reason, error.metadata["field"])
    assert [] == list((await agent.ListNudges(LIST)).nudges)


async def test_an_agent_marks_no_other_agents_nudge(registry, agent):
    """The name of a nudge says whose it is."""
    other = "towns/town-1/agents/somebody/nudges/n-1"
    request = pb.AcknowledgeNudgeRequest(name=other)

    error = await refused(registry.stub(Kind.AGENT).AcknowledgeNudge(request))

    assert Reason.AGENT_FOREIGN is error.reason
