"""Calls by which agents speak of themselves, over a real port."""

from __future__ import annotations

from typing import Any

import pytest

from services.chassis.auth import Kind
from services.chassis.errors import Reason
from services.registry.reports import CHECKPOINT_BYTES_MAX
from tests.support.registry_samples import ADDRESS, BOOT, FIRST, MAYOR, SPEC
from tests.support.registry_server import Registry, refused
from tests.support.tokens import TOWN
from townkeeper.registry.v1 import callbacks_pb2 as res
from townkeeper.registry.v1 import registry_pb2 as pb

COMPLETED = res.AgentCompletion.OUTCOME_COMPLETED


def report(**kinds: Any) -> Any:
    return pb.ReportAgentRequest(name=str(MAYOR), **kinds)


@pytest.fixture
async def agent(registry: Registry, stub: Any) -> Any:
    await registry.store.register_agent(MAYOR, SPEC)
    return stub


async def test_what_was_reported_is_told(registry, agent):
    """To whoever may read it, with the time of each report."""
    heartbeat = res.AgentHeartbeat(
        last_event_type="x", active_tools=["bash"], container_instance_id="c"
    )
    heartbeat.last_event_time.FromJsonString("2026-01-02T03:04:05.678Z")
    waiting = res.AgentWaiting()
    waiting.fire_time.FromMilliseconds(1_767_323_045_678)
    kinds: dict[str, Any] = {
        "heartbeat": heartbeat,
        "status": res.AgentStatus(text="Reading"),
        "completion": res.AgentCompletion(outcome=COMPLETED, reason="done"),
        "waiting": waiting,
        "checkpoint": res.AgentCheckpoint(data_json="[1]"),
    }
    for kind, value in kinds.items():
        await agent.ReportAgent(report(**{kind: value}))

    request = pb.GetAgentReportsRequest(name=str(MAYOR))
    answer = await registry.stub(Kind.USER).GetAgentReports(request)
    for kind, value in kinds.items():
        told = getattr(answer.reports, kind)
        assert told.HasField("report_time")
        told.ClearField("report_time")
        assert value == told
    assert str(MAYOR) == answer.reports.name


@pytest.mark.parametrize(
    ("kinds", "reason", "field"),
    [
        ({}, Reason.FIELD_REQUIRED, "report"),
        ({"status": {"text": ""}}, Reason.FIELD_INVALID, "status.text"),
        ({"status": {"text": " x"}}, Reason.FIELD_INVALID, "status.text"),
        ({"status": {"text": "x" * 281}}, Reason.FIELD_INVALID, "status.text"),
        ({"completion": {}}, Reason.FIELD_REQUIRED, "completion.outcome"),
        ({"completion": {"outcome": 9}}, Reason.FIELD_INVALID, "completion.outcome"),
        (
            {"completion": {"outcome": 1, "reason": "x" * 4097}},
            Reason.FIELD_INVALID,
            "completion.reason",
        ),
        (
            {"checkpoint": {"data_json": "{"}},
            Reason.FIELD_INVALID,
            "checkpoint.data_json",
        ),
        (
            {"checkpoint": {"data_json": "NaN"}},
            Reason.FIELD_INVALID,
            "checkpoint.data_json",
        ),
        (
            {"checkpoint": {"data_json": "[" * 60_000}},
            Reason.FIELD_INVALID,
            "checkpoint.data_json",
        ),
        (
            {"checkpoint": {"data_json": "1" * (CHECKPOINT_BYTES_MAX + 1)}},
            Reason.FIELD_INVALID,
            "checkpoint.data_json",
        ),
        (
            {"heartbeat": {"active_tools": ["x"] * 101}},
            Reason.FIELD_INVALID,
            "heartbeat.active_tools",
        ),
        (
            {"heartbeat": {"active_tools": ["x" * 257]}},
            Reason.FIELD_INVALID,
            "heartbeat.active_tools",
        ),
        (
            {"heartbeat": {"last_event_type": "x" * 257}},
            Reason.FIELD_INVALID,
            "heartbeat.last_event_type",
        ),
        (
            {"waiting": {"fire_time": {"seconds": 2**60}}},
            Reason.FIELD_INVALID,
            "fire_time",
        ),
    ],
)
async def test_what_is_outside_its_range_is_refused(agent, kinds, reason, field):
    """And nothing of it is kept."""
    error = await refused(agent.ReportAgent(report(**kinds)))

    assert (reason, field) == (error.reason, error.metadata["field"])
    answer = await agent.GetAgentReports(pb.GetAgentReportsRequest(name=str(MAYOR)))
    assert res.AgentReports(name=str(MAYOR)) == answer.reports


async def test_a_status_of_280_characters_is_taken(agent):
    """Characters count, not bytes."""
    await agent.ReportAgent(report(status=res.AgentStatus(text="\u00fc" * 280)))


async def test_only_a_container_is_told_the_nonce(registry, agent):
    """Who knows it can end the drain, and an agent may not."""
    await registry.store.register_instance(FIRST, BOOT, ADDRESS)
    drain = await registry.store.announce_drain(TOWN)
    request = report(heartbeat=res.AgentHeartbeat())

    own = await registry.stub(Kind.AGENT).ReportAgent(request)
    container = await agent.ReportAgent(request)

    assert ("", drain.nonce) == (own.drain_nonce, container.drain_nonce)


class TestEvents:
    """The log over the wire."""

    async def append(self, stub: Any, **options: Any) -> Any:
        event = res.AgentEvent(**{"type": "turn", **options})
        request = pb.AppendAgentEventRequest(parent=str(MAYOR), event=event)
        return (await stub.AppendAgentEvent(request)).event

    async def test_an_event_is_listed_as_it_was_appended(self, registry, agent):
        """With the id and the time that it was given; no data is null."""
        first = await self.append(registry.stub(Kind.AGENT), data_json="[1]", id=99)
        second = await self.append(agent)

        request = pb.ListAgentEventsRequest(parent=str(MAYOR))
        answer = await registry.stub(Kind.USER).ListAgentEvents(request)

        assert [first, second] == list(answer.events)
        assert [(1, "turn", "[1]"), (2, "turn", "null")] == [
            (event.id, event.type, event.data_json) for event in answer.events
        ]
        assert first.HasField("create_time")
        assert 0 == answer.dropped_count

    @pytest.mark.parametrize(
        ("event", "field"),
        [
            ({"type": ""}, "event.type"),
            ({"type": "x" * 257}, "event.type"),
            ({"data_json": "{"}, "event.data_json"),
            ({"data_json": "1" * 65_537}, "event.data_json"),
        ],
    )
    async def test_an_event_outside_its_range_is_refused(self, agent, event, field):
        """And nothing is appended."""
        error = await refused(self.append(agent, **event))

        assert field == error.metadata["field"]
        assert 1 == (await self.append(agent)).id

    @pytest.mark.parametrize(
        ("field", "value"),
        [("after_id", -1), ("page_size", 1001), ("page_size", -1)],
    )
    async def test_a_page_outside_its_range_is_refused(self, agent, field, value):
        """Rather than answered with something else."""
        request = pb.ListAgentEventsRequest(parent=str(MAYOR), **{field: value})

        error = await refused(agent.ListAgentEvents(request))

        assert (Reason.FIELD_INVALID, field) == (error.reason, error.metadata["field"])
