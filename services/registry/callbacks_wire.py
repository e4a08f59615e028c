"""What agents say of themselves: proto messages ⇄ values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from services.chassis.errors import Reason, ServiceError
from services.chassis.names import AgentName
from services.registry.event_log import AgentEvent
from services.registry.reports import (
    Checkpoint,
    Completion,
    Heartbeat,
    Outcome,
    Report,
    Status,
    Told,
    Waiting,
)
from services.registry.wire import known, time_to_proto
from townkeeper.registry.v1 import callbacks_pb2 as pb
from townkeeper.registry.v1 import registry_pb2 as calls

OUTCOMES: Final = {
    pb.AgentCompletion.OUTCOME_COMPLETED: Outcome.COMPLETED,
    pb.AgentCompletion.OUTCOME_FAILED: Outcome.FAILED,
}
_OUTCOME_NUMBERS: Final = {value: number for number, value in OUTCOMES.items()}


def report_from_proto(request: calls.ReportAgentRequest) -> Report:
    """The one report of a request. Raises FIELD_REQUIRED, FIELD_INVALID."""
    kind = request.WhichOneof("report")
    if kind is None:
        raise _required("report")
    return _READERS[kind](getattr(request, kind))


def reports_to_proto(name: AgentName, told: Sequence[Told]) -> pb.AgentReports:
    reports = pb.AgentReports(name=str(name))
    for one in told:
        message = _report_to_proto(one.report, time_to_proto(one.report_time))
        getattr(reports, _FIELDS[type(message)]).CopyFrom(message)
    return reports


def event_to_proto(event: AgentEvent) -> pb.AgentEvent:
    return pb.AgentEvent(
        id=event.id,
        type=event.type,
        data_json=event.data_json,
        create_time=time_to_proto(event.create_time),
    )


def _report_to_proto(report: Report, told: Timestamp) -> Message:
    if isinstance(report, Heartbeat):
        return pb.AgentHeartbeat(
            last_event_type=report.last_event_type,
            last_event_time=_optional(report.last_event_time),
            active_tools=report.active_tools,
            container_instance_id=report.container_instance_id,
            report_time=told,
        )
    if isinstance(report, Status):
        return pb.AgentStatus(text=report.text, report_time=told)
    if isinstance(report, Completion):
        outcome = _OUTCOME_NUMBERS[report.outcome]
        return pb.AgentCompletion(
            outcome=outcome, reason=report.reason, report_time=told
        )
    if isinstance(report, Waiting):
        return pb.AgentWaiting(fire_time=_optional(report.fire_time), report_time=told)
    return pb.AgentCheckpoint(data_json=report.data_json, report_time=told)


def _heartbeat(message: pb.AgentHeartbeat) -> Heartbeat:
    return Heartbeat(
        message.last_event_type,
        _moment(message, "last_event_time"),
        tuple(message.active_tools),
        message.container_instance_id,
    )


def _completion(message: pb.AgentCompletion) -> Completion:
    outcome = known("completion.outcome", message.outcome, OUTCOMES)
    if outcome is None:
        raise _required("completion.outcome")
    return Completion(outcome, message.reason)


_READERS: Final[dict[str, Callable[[Any], Report]]] = {
    "heartbeat": _heartbeat,
    "status": lambda message: Status(message.text),
    "completion": _completion,
    "waiting": lambda message: Waiting(_moment(message, "fire_time")),
    "checkpoint": lambda message: Checkpoint(message.data_json),
}
_FIELDS: Final[dict[type[Message], str]] = {
    pb.AgentHeartbeat: "heartbeat",
    pb.AgentStatus: "status",
    pb.AgentCompletion: "completion",
    pb.AgentWaiting: "waiting",
    pb.AgentCheckpoint: "checkpoint",
}


def _moment(message: Message, field: str) -> datetime | None:
    if not message.HasField(field):
        return None
    try:
        moment: datetime = getattr(message, field).ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError) as error:
        raise ServiceError(
            Reason.FIELD_INVALID,
            f"cannot use {field}: give a time between the years 1 and 9999",
            field=field,
        ) from error
    return moment


def _optional(moment: datetime | None) -> Timestamp | None:
    return time_to_proto(moment) if moment else None


def _required(field: str) -> ServiceError:
    return ServiceError(
        Reason.FIELD_REQUIRED, f"cannot go on without {field}: set it", field=field
    )
