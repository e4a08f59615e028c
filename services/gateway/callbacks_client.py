"""What agents say of themselves, as the gateway hands it to the registry."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from google.protobuf.timestamp_pb2 import Timestamp

from services.chassis.errors import rpc_errors
from services.gateway.spec_wire import word_of
from services.gateway.transcode import timestamp
from townkeeper.registry.v1 import callbacks_pb2 as res
from townkeeper.registry.v1 import registry_pb2 as pb
from townkeeper.registry.v1 import registry_pb2_grpc

MODES: Final = {
    "wait-idle": res.Nudge.MODE_WAIT_IDLE,
    "immediate": res.Nudge.MODE_IMMEDIATE,
    "queue": res.Nudge.MODE_QUEUE,
}
PRIORITIES: Final = {
    "normal": res.Nudge.PRIORITY_NORMAL,
    "urgent": res.Nudge.PRIORITY_URGENT,
}


@dataclass(frozen=True, slots=True)
class NudgeSpec:
    """What a client wants said; mode and priority in its words."""

    text: str
    mode: str
    priority: str
    source: str
    ttl_s: int | None


class CallbackCalls:
    """Part of the registry's client; agents are named in full."""

    _stub: registry_pb2_grpc.RegistryServiceAsyncStub
    _metadata: tuple[tuple[str, str], ...]

    async def report_heartbeat(
        self,
        name: str,
        *,
        event_type: str,
        event_time: datetime | None,
        tools: Sequence[str],
        container: str,
    ) -> str:
        """Says that an agent lives; returns the nonce of a drain that is on."""
        heartbeat = res.AgentHeartbeat(
            last_event_type=event_type,
            last_event_time=_timestamp(event_time),
            active_tools=tools,
            container_instance_id=container,
        )
        return await self._report(pb.ReportAgentRequest(name=name, heartbeat=heartbeat))

    async def report_status(self, name: str, text: str) -> None:
        status = res.AgentStatus(text=text)
        await self._report(pb.ReportAgentRequest(name=name, status=status))

    async def report_completion(self, name: str, *, failed: bool, reason: str) -> None:
        kind = res.AgentCompletion
        outcome = kind.OUTCOME_FAILED if failed else kind.OUTCOME_COMPLETED
        completion = kind(outcome=outcome, reason=reason)
        await self._report(pb.ReportAgentRequest(name=name, completion=completion))

    async def report_waiting(self, name: str, fire_time: datetime | None) -> None:
        waiting = res.AgentWaiting(fire_time=_timestamp(fire_time))
        await self._report(pb.ReportAgentRequest(name=name, waiting=waiting))

    async def report_checkpoint(self, name: str, data_json: str) -> None:
        checkpoint = res.AgentCheckpoint(data_json=data_json)
        await self._report(pb.ReportAgentRequest(name=name, checkpoint=checkpoint))

    async def append_event(
        self, name: str, event_type: str, data_json: str, *, request_id: str = ""
    ) -> None:
        """Always under an id: a call that the channel repeats is one event."""
        request = pb.AppendAgentEventRequest(
            parent=name,
            event=res.AgentEvent(type=event_type, data_json=data_json),
            request_id=request_id or str(uuid.uuid4()),
        )
        with rpc_errors():
            await self._stub.AppendAgentEvent(request, metadata=self._metadata)

    async def list_events(
        self, name: str, after: int, limit: int
    ) -> tuple[list[dict[str, Any]], int]:
        """Events as rows, and how many before them the log no longer keeps."""
        request = pb.ListAgentEventsRequest(
            parent=name, after_id=after, page_size=limit
        )
        with rpc_errors():
            reply = await self._stub.ListAgentEvents(request, metadata=self._metadata)
        return [_event_row(event) for event in reply.events], reply.dropped_count

    async def enqueue_nudge(
        self, name: str, nudge: NudgeSpec, *, nudge_id: str = ""
    ) -> str:
        """Accepts a nudge, durably; returns its id. Always under one, as messages."""
        request = pb.EnqueueNudgeRequest(
            parent=name,
            nudge_id=nudge_id or str(uuid.uuid4()),
            nudge=res.Nudge(
                text=nudge.text,
                mode=MODES[nudge.mode],
                priority=PRIORITIES[nudge.priority],
                source=nudge.source,
            ),
        )
        if nudge.ttl_s is not None:
            request.ttl.FromSeconds(nudge.ttl_s)
        with rpc_errors():
            reply = await self._stub.EnqueueNudge(request, metadata=self._metadata)
        return reply.nudge.name.rpartition("/")[2]

    async def pending_nudges(self, name: str) -> list[dict[str, Any]]:
        """In the order in which they should be said."""
        request = pb.ListNudgesRequest(parent=name)
        with rpc_errors():
            reply = await self._stub.ListNudges(request, metadata=self._metadata)
        return [_nudge_row(nudge) for nudge in reply.nudges]

    async def acknowledge_nudge(self, name: str, nudge_id: str) -> None:
        request = pb.AcknowledgeNudgeRequest(name=f"{name}/nudges/{nudge_id}")
        with rpc_errors():
            await self._stub.AcknowledgeNudge(request, metadata=self._metadata)

    async def _report(self, request: pb.ReportAgentRequest) -> str:
        with rpc_errors():
            reply = await self._stub.ReportAgent(request, metadata=self._metadata)
        return reply.drain_nonce


def _nudge_row(nudge: res.Nudge) -> dict[str, Any]:
    return {
        "nudge_id": nudge.name.rpartition("/")[2],
        "message": nudge.text,
        "mode": word_of(MODES, nudge.mode),
        "priority": word_of(PRIORITIES, nudge.priority),
        "source": nudge.source,
        "created_at": timestamp(nudge, "create_time"),
        "expires_at": timestamp(nudge, "expire_time"),
    }


def _event_row(event: res.AgentEvent) -> dict[str, Any]:
    return {
        "id": event.id,
        "event_type": event.type,
        "data": json.loads(event.data_json),
        "created_at": timestamp(event, "create_time"),
    }


def _timestamp(moment: datetime | None) -> Timestamp | None:
    if moment is None:
        return None
    timestamp = Timestamp()
    timestamp.FromDatetime(moment)
    return timestamp
