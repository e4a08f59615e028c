"""Protos → JSON: agents, runs, events, snapshots, as clients of the original read them.

Start requests go both ways: `spec_wire.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp

from services.gateway.spec_wire import ROLES, word_of
from townkeeper.registry.v1 import resources_pb2 as registry
from townkeeper.snapshots.v1 import resources_pb2 as snapshots
from townkeeper.supervisor.v1 import resources_pb2 as supervisor

_RUN: Final = supervisor.Run
_RUN_STATES: Final = {
    _RUN.STATE_HYDRATING: "starting",
    _RUN.STATE_STARTING: "starting",
    _RUN.STATE_BACKOFF: "starting",
    _RUN.STATE_RUNNING: "running",
    _RUN.STATE_STOPPING: "stopping",
    _RUN.STATE_SAVING: "stopping",
    _RUN.STATE_EXITED: "exited",
    _RUN.STATE_FAILED: "failed",
}
ENDED_STATES: Final = frozenset({"exited", "failed"})


def record_to_json(
    run: supervisor.Run, spec: registry.AgentSpec, agent: str, town: str
) -> dict[str, Any]:
    """The original's agent record, without its secrets and its start request."""
    return {
        "agentId": agent,
        "rigId": spec.rig_id,
        "townId": town,
        "role": word_of(ROLES, run.role or spec.role),
        "name": spec.display_name,
        **run_to_json(run, agent),
        "workdir": run.workdir,
        "lastEventType": None,
        "lastEventAt": None,
        "model": run.model,
        "organizationId": spec.organization_id or None,
    }


def run_to_json(run: supervisor.Run, agent: str) -> dict[str, Any]:
    """What `status` says of a run."""
    return {
        "agentId": agent,
        "status": run_status(run),
        "serverPort": run.port,
        "sessionId": run.session_id,
        "startedAt": timestamp(run, "start_time"),
        "lastActivityAt": timestamp(run, "activity_time"),
        "activeTools": list(run.active_tools),
        "messageCount": run.message_count,
        "exitReason": run.exit_reason or None,
        "error": run.error or None,
        "instanceId": run.instance.rpartition("/")[2] or None,
        "epoch": run.epoch,
        "generation": run.generation,
        "lastSavedAt": timestamp(run, "save_time"),
        "lagSeconds": run.lag_seconds,
        "resumed": run.resumed,
        "interrupted": run.interrupted,
    }


def agent_to_json(
    agent: registry.Agent, name: str, saved: snapshots.Snapshot | None
) -> dict[str, Any]:
    """What `status` says of an agent that no instance runs now."""
    return {
        "agentId": name,
        "status": agent_status(agent),
        "serverPort": 0,
        "sessionId": saved.session_id if saved else "",
        "startedAt": timestamp(agent.lease, "acquire_time"),
        "lastActivityAt": None,
        "activeTools": [],
        "messageCount": 0,
        "exitReason": agent.end_reason or None,
        "error": agent.last_error or None,
        "instanceId": None,
        "epoch": agent.lease.epoch,
        "generation": saved.generation if saved else agent.generation,
        "lastSavedAt": timestamp(saved, "create_time") if saved else None,
        "lagSeconds": 0,
        "resumed": False,
        "interrupted": False,
    }


def run_status(run: supervisor.Run) -> str:
    return _RUN_STATES.get(run.state, "starting")


def agent_status(agent: registry.Agent) -> str:
    """An agent that must run and does not is on its way, unless it failed to start."""
    if agent.state != registry.Agent.STATE_ACTIVE:
        return "failed" if agent.end_reason == "failed" else "exited"
    return "failed" if agent.last_error else "starting"


def is_active(agent: registry.Agent) -> bool:
    """Whether the town wants the agent to run."""
    return agent.state == registry.Agent.STATE_ACTIVE


def town_health(
    instances: Sequence[registry.Instance],
    runs: Sequence[supervisor.Run],
    now: datetime,
) -> dict[str, Any]:
    """The containers of a town as one."""
    oldest = min(one.register_time.ToDatetime(tzinfo=UTC) for one in instances)
    live = [run for run in runs if run_status(run) not in ENDED_STATES]
    health: dict[str, Any] = {
        "status": "ok",
        "agents": len(live),
        "servers": sum(run.port > 0 for run in live),
        "uptime": max(0, int((now - oldest).total_seconds() * 1000)),
        "startedAt": iso(oldest),
        "instances": len(instances),
    }
    if any_draining(instances):
        health["draining"] = True
    return health


def any_draining(instances: Iterable[registry.Instance]) -> bool:
    draining = registry.Instance.STATE_DRAINING
    return any(one.state == draining for one in instances)


def session_status(run: supervisor.Run) -> str:
    """`idle`, `active` or `starting`, as the mayor's clients know it."""
    if run_status(run) != "running":
        return "starting"
    return "idle" if run.status == "idle" else "active"


def event_to_json(event: supervisor.Event) -> dict[str, Any]:
    return {
        "id": event.sequence,
        "event": event.type,
        "data": _struct(event.data),
        "timestamp": timestamp(event, "event_time"),
    }


def snapshot_to_json(snapshot: snapshots.Snapshot) -> dict[str, Any]:
    """One generation, as `…/db-snapshot/generations` lists it."""
    opaque = snapshot.format == snapshots.FORMAT_OPAQUE
    return {
        "generation": snapshot.generation,
        "etag": f'"{snapshot.generation}"',
        "format": "opaque" if opaque else "sqlite",
        "sizeBytes": snapshot.size_bytes,
        "createdAt": timestamp(snapshot, "create_time"),
        "epoch": snapshot.epoch,
        "instanceId": snapshot.instance.rpartition("/")[2] or None,
        "runtime": snapshot.runtime or None,
        "runtimeVersion": snapshot.runtime_version or None,
        "sessionId": snapshot.session_id or None,
        "labels": dict(snapshot.labels),
    }


def timestamp(message: Message, field: str) -> str | None:
    """A time field as ISO 8601 in milliseconds, as JavaScript writes it."""
    if not message.HasField(field):
        return None
    value: Timestamp = getattr(message, field)
    return iso(value.ToDatetime(tzinfo=UTC))


def iso(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _struct(struct: Struct) -> dict[str, Any]:
    return {key: _value(value) for key, value in struct.fields.items()}


_VALUES: Final[dict[str, Callable[[Value], Any]]] = {
    "number_value": lambda value: _number(value.number_value),
    "string_value": lambda value: value.string_value,
    "bool_value": lambda value: value.bool_value,
    "struct_value": lambda value: _struct(value.struct_value),
    "list_value": lambda value: [_value(one) for one in value.list_value.values],
}


def _value(value: Value) -> Any:
    read = _VALUES.get(value.WhichOneof("kind") or "")
    return read(value) if read else None


# Beyond it floats skip whole numbers.
_WHOLE_MAX: Final = 2**53


def _number(number: float) -> float | int | None:
    # Struct knows floats only; times in ms and counts were whole when they went in.
    if not math.isfinite(number):
        return None
    whole = number.is_integer() and abs(number) < _WHOLE_MAX
    return int(number) if whole else number
