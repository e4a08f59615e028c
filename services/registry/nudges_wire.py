"""Nudges: proto messages ⇄ values."""

from __future__ import annotations

from typing import Final

from services.registry.nudges import Mode, Nudge, NudgeContent, Priority, check_ttl
from services.registry.wire import known, time_to_proto
from townkeeper.registry.v1 import callbacks_pb2 as pb
from townkeeper.registry.v1 import registry_pb2 as calls

MODES: Final = {
    pb.Nudge.MODE_WAIT_IDLE: Mode.WAIT_IDLE,
    pb.Nudge.MODE_IMMEDIATE: Mode.IMMEDIATE,
    pb.Nudge.MODE_QUEUE: Mode.QUEUE,
}
PRIORITIES: Final = {
    pb.Nudge.PRIORITY_NORMAL: Priority.NORMAL,
    pb.Nudge.PRIORITY_URGENT: Priority.URGENT,
}
_MODE_NUMBERS: Final = {value: number for number, value in MODES.items()}
_PRIORITY_NUMBERS: Final = {value: number for number, value in PRIORITIES.items()}


def content_from_proto(request: calls.EnqueueNudgeRequest) -> NudgeContent:
    """What is asked for. Raises FIELD_INVALID."""
    nudge, ttl_s = request.nudge, 0.0
    if request.HasField("ttl"):
        ttl_s = check_ttl(request.ttl.seconds + request.ttl.nanos / 1e9)
    return NudgeContent(
        nudge.text,
        known("nudge.mode", nudge.mode, MODES) or Mode.WAIT_IDLE,
        known("nudge.priority", nudge.priority, PRIORITIES) or Priority.NORMAL,
        nudge.source,
        ttl_s,
    )


def nudge_to_proto(nudge: Nudge) -> pb.Nudge:
    expires = nudge.expire_time
    return pb.Nudge(
        name=str(nudge.name),
        text=nudge.content.text,
        mode=_MODE_NUMBERS[nudge.content.mode],
        priority=_PRIORITY_NUMBERS[nudge.content.priority],
        source=nudge.content.source,
        create_time=time_to_proto(nudge.create_time),
        expire_time=time_to_proto(expires) if expires else None,
    )
