"""Protos of the registry and the supervisor ⇄ the supervisor's own values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final, TypeVar

from google.protobuf import struct_pb2

from services.chassis.errors import Reason, ServiceError
from services.chassis.names import AgentName
from services.supervisor.events import Event
from services.supervisor.run import Run, State
from services.supervisor.specs import AgentSpec, Claim, Identity, Resume, Role
from services.supervisor.workspace_save import SaveOutcome, WorkspaceSave
from townkeeper.registry.v1 import registry_pb2
from townkeeper.registry.v1 import resources_pb2 as registry
from townkeeper.supervisor.v1 import resources_pb2 as pb

T = TypeVar("T")

_ROLES: Final[Mapping[int, Role]] = {
    registry.ROLE_MAYOR: Role.MAYOR,
    registry.ROLE_POLECAT: Role.POLECAT,
    registry.ROLE_REFINERY: Role.REFINERY,
    registry.ROLE_TRIAGE: Role.TRIAGE,
}
_ROLES_OUT: Final = {role: registry.Role.Value(f"ROLE_{role.name}") for role in Role}
_RUNTIMES: Final[Mapping[int, str]] = {
    registry.RUNTIME_UNSPECIFIED: "kilo",
    registry.RUNTIME_KILO: "kilo",
    registry.RUNTIME_OPENCODE: "opencode",
    registry.RUNTIME_EXEC: "exec",
}
_RESUMES: Final[Mapping[int, Resume]] = {
    registry.RESUME_UNSPECIFIED: Resume.DEFAULT,
    registry.RESUME_LATEST: Resume.LATEST,
    registry.RESUME_FRESH: Resume.FRESH,
}
_STATES: Final = {state: pb.Run.State.Value(f"STATE_{state.name}") for state in State}
_OUTCOMES: Final = {
    outcome: pb.WorkspaceSave.Outcome.Value(f"OUTCOME_{outcome.name}")
    for outcome in SaveOutcome
}


def spec_from_proto(spec: registry.AgentSpec) -> AgentSpec:
    """The spec, or FIELD_INVALID naming an enum value that we do not know."""
    return AgentSpec(
        rig=spec.rig_id,
        role=_known(_ROLES, spec.role, "spec.role"),
        runtime=_known(_RUNTIMES, spec.runtime, "spec.runtime"),
        display_name=spec.display_name,
        prompt=spec.prompt,
        model=spec.model,
        small_model=spec.small_model,
        system_prompt=spec.system_prompt,
        git_url=spec.git_url,
        branch=spec.branch,
        default_branch=spec.default_branch,
        start_point=spec.start_point,
        lightweight=spec.lightweight,
        env_vars=dict(spec.env_vars),
        command=tuple(spec.command),
        database=spec.database,
        resume=_known(_RESUMES, spec.resume, "spec.resume"),
    )


def _known(table: Mapping[int, T], number: int, field: str) -> T:
    try:
        return table[number]
    except KeyError:
        raise ServiceError(
            Reason.FIELD_INVALID,
            f"cannot use {field} {number}: give one of {sorted(table)}",
            field=field,
            value=number,
        ) from None


def claim_from_proto(claim: registry_pb2.Claim) -> Claim:
    """A claim. Its spec was validated when it was stored."""
    return Claim(
        name=AgentName.parse(claim.agent.name),
        spec=spec_from_proto(claim.agent.spec),
        epoch=claim.agent.lease.epoch,
        generation=claim.agent.generation,
        taken_over=claim.taken_over,
    )


def run_to_proto(run: Run, identity: Identity, lag_s: float) -> pb.Run:
    """A run as callers see it."""
    proto = pb.Run(
        name=f"{run.name}/runs/{run.id}",
        state=_STATES[run.state],
        pid=run.pid,
        port=run.port,
        session_id=run.session_id,
        resumed=run.resumed,
        interrupted=run.interrupted,
        epoch=run.epoch,
        instance=identity.instance,
        generation=run.generation,
        lag_seconds=lag_s,
        active_tools=sorted(run.active_tools.values()),
        message_count=run.message_count,
        exit_reason=run.exit_reason,
        error=run.error,
        model=run.model,
        role=_ROLES_OUT[run.role],
        workdir=run.workdir,
        lost_generations=run.lost_generations,
        status=run.status,
        crash_count=run.crash_count,
    )
    proto.start_time.FromDatetime(run.started_at)
    if run.saved_at is not None:
        proto.save_time.FromDatetime(run.saved_at)
    if run.active_at is not None:
        proto.activity_time.FromDatetime(run.active_at)
    return proto


def workspace_save_to_proto(saved: WorkspaceSave) -> pb.WorkspaceSave:
    """What a drain made of a workspace."""
    return pb.WorkspaceSave(
        outcome=_OUTCOMES[saved.outcome],
        ref=saved.ref,
        commit=saved.commit,
        error=saved.error,
    )


def event_to_proto(event: Event, town: str) -> pb.Event:
    """An event; its data keep what JSON can say."""
    proto = pb.Event(
        sequence=event.sequence,
        agent=str(AgentName(town, event.agent)),
        type=event.type,
        data=_struct(event.data),
    )
    proto.event_time.FromDatetime(event.at)
    return proto


def _struct(data: Mapping[str, object]) -> struct_pb2.Struct:
    struct = struct_pb2.Struct()
    plain: Any = {str(key): _plain(value, 0) for key, value in data.items()}
    struct.update(plain)
    return struct


# Deeper nesting than protobuf's own parser takes (100, three levels for each of ours).
_DEPTH_MAX: Final = 30


def _plain(value: object, depth: int) -> object:
    if depth >= _DEPTH_MAX:
        return "…"
    if isinstance(value, Mapping):
        return {str(k): _plain(v, depth + 1) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, depth + 1) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)
