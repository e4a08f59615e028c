"""Proto messages ⇄ values. The only rule here: who may see the values of variables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from datetime import datetime
from typing import Final, TypeVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from services.chassis.errors import Reason, ServiceError
from services.chassis.names import AgentName, InstanceName, check_id
from services.registry.addresses import without_login
from services.registry.agents import Agent, State
from services.registry.changes import Step, resume_token
from services.registry.inbox import Message, MessageState
from services.registry.leases import Instance, InstanceState, Lease
from services.registry.specs import (
    AgentSpec,
    Problem,
    Resume,
    RigRef,
    Role,
    Runtime,
    refuse,
)
from townkeeper.registry.v1 import registry_pb2 as calls
from townkeeper.registry.v1 import resources_pb2 as pb

K = TypeVar("K", bound=int)
T = TypeVar("T")

# Beyond this Redis's Lua would round; a generation a second takes 300,000 years.
NUMBER_MAX: Final = 10**13

ROLES: Final = {
    pb.ROLE_UNSPECIFIED: Role.UNSPECIFIED,
    pb.ROLE_MAYOR: Role.MAYOR,
    pb.ROLE_POLECAT: Role.POLECAT,
    pb.ROLE_REFINERY: Role.REFINERY,
    pb.ROLE_TRIAGE: Role.TRIAGE,
}
RUNTIMES: Final = {
    pb.RUNTIME_UNSPECIFIED: Runtime.UNSPECIFIED,
    pb.RUNTIME_KILO: Runtime.KILO,
    pb.RUNTIME_OPENCODE: Runtime.OPENCODE,
    pb.RUNTIME_EXEC: Runtime.EXEC,
}
RESUMES: Final = {
    pb.RESUME_UNSPECIFIED: Resume.UNSPECIFIED,
    pb.RESUME_LATEST: Resume.LATEST,
    pb.RESUME_FRESH: Resume.FRESH,
}
STATES: Final = {
    pb.Agent.STATE_CONFIGURED: State.CONFIGURED,
    pb.Agent.STATE_ACTIVE: State.ACTIVE,
    pb.Agent.STATE_ENDED: State.ENDED,
}
INSTANCE_STATES: Final = {
    InstanceState.READY: pb.Instance.STATE_READY,
    InstanceState.DRAINING: pb.Instance.STATE_DRAINING,
    InstanceState.EXPIRED: pb.Instance.STATE_EXPIRED,
}
MESSAGE_STATES: Final = {
    pb.Message.STATE_PENDING: MessageState.PENDING,
    pb.Message.STATE_DELIVERED: MessageState.DELIVERED,
    pb.Message.STATE_INTERRUPTED: MessageState.INTERRUPTED,
}
_ROLE_NUMBERS: Final = {value: number for number, value in ROLES.items()}
_RUNTIME_NUMBERS: Final = {value: number for number, value in RUNTIMES.items()}
_RESUME_NUMBERS: Final = {value: number for number, value in RESUMES.items()}
_STATE_NUMBERS: Final = {value: number for number, value in STATES.items()}
_MESSAGE_NUMBERS: Final = {value: number for number, value in MESSAGE_STATES.items()}

_PLAIN: Final = tuple(
    each.name
    for each in fields(AgentSpec)
    if each.name
    not in {"role", "runtime", "resume", "rigs", "command", "env_vars", "lightweight"}
)
_RIG_FIELDS: Final = tuple(each.name for each in fields(RigRef))


def spec_from_proto(message: pb.AgentSpec, prefix: str = "spec.") -> AgentSpec:
    """The spec as sent. Raises FIELD_INVALID for enum numbers that nobody knows."""
    problems = [
        Problem(name, "use one of the documented values")
        for name, table in (
            ("role", ROLES),
            ("runtime", RUNTIMES),
            ("resume", RESUMES),
        )
        if getattr(message, name) not in table
    ]
    refuse(problems, prefix)
    return AgentSpec(
        **{name: getattr(message, name) for name in _PLAIN},
        role=ROLES[message.role],
        runtime=RUNTIMES[message.runtime],
        resume=RESUMES[message.resume],
        env_vars=dict(message.env_vars),
        lightweight=message.lightweight,
        command=tuple(message.command),
        rigs=tuple(
            RigRef(**{name: getattr(rig, name) for name in _RIG_FIELDS})
            for rig in message.rigs
        ),
    )


def spec_to_proto(spec: AgentSpec, *, reveal: bool) -> pb.AgentSpec:
    """Without `reveal` the variables lose their values, and addresses their logins."""
    variables = spec.env_vars if reveal else dict.fromkeys(spec.env_vars, "")
    message = pb.AgentSpec(
        **{name: getattr(spec, name) for name in _PLAIN},
        role=_ROLE_NUMBERS[spec.role],
        runtime=_RUNTIME_NUMBERS[spec.runtime],
        resume=_RESUME_NUMBERS[spec.resume],
        env_vars=variables,
        lightweight=spec.lightweight,
        command=spec.command,
        rigs=[
            pb.RigRef(**{name: getattr(rig, name) for name in _RIG_FIELDS})
            for rig in spec.rigs
        ],
    )
    if not reveal:
        message.git_url = without_login(message.git_url)
        for rig in message.rigs:
            rig.git_url = without_login(rig.git_url)
    return message


def agent_to_proto(agent: Agent, *, reveal: bool) -> pb.Agent:
    message = pb.Agent(
        name=str(agent.name),
        spec=spec_to_proto(agent.spec, reveal=reveal) if agent.spec else None,
        state=_STATE_NUMBERS[agent.state],
        end_reason=agent.end_reason,
        etag=agent.etag,
        generation=agent.generation,
        failed_starts_count=agent.failed_starts_count,
        last_error=agent.last_error,
        entry_json=agent.entry_json if reveal else "",
        pending_messages_count=agent.pending_messages_count,
        create_time=time_to_proto(agent.create_time),
        update_time=time_to_proto(agent.update_time),
    )
    if agent.lease is not None:
        message.lease.CopyFrom(_lease_to_proto(agent.name.town, agent.lease))
    return message


def step_to_proto(town: str, step: Step, *, reveal: bool) -> calls.WatchAgentsResponse:
    message = calls.WatchAgentsResponse(resume_token=resume_token(town, step.position))
    if step.changed is not None:
        message.changed.CopyFrom(agent_to_proto(step.changed, reveal=reveal))
    elif step.deregistered is not None:
        message.deregistered = str(step.deregistered)
    else:
        message.synced = True
    return message


def _lease_to_proto(town: str, lease: Lease) -> pb.Lease:
    holder = str(InstanceName(town, lease.instance)) if lease.instance else ""
    acquired = lease.acquire_time
    return pb.Lease(
        epoch=lease.epoch,
        instance=holder,
        boot_id=lease.boot_id,
        live=lease.live,
        acquire_time=time_to_proto(acquired) if acquired else None,
    )


def instance_to_proto(town: str, instance: Instance) -> pb.Instance:
    return pb.Instance(
        name=str(InstanceName(town, instance.slot)),
        boot_id=instance.boot_id,
        address=instance.address,
        capacity=instance.capacity,
        state=INSTANCE_STATES[instance.state],
        lease_count=instance.lease_count,
        register_time=time_to_proto(instance.register_time),
        expire_time=time_to_proto(instance.expire_time),
    )


def message_to_proto(message: Message) -> pb.Message:
    settled = message.acknowledge_time
    return pb.Message(
        name=str(message.name),
        text=message.text,
        model=message.model,
        state=_MESSAGE_NUMBERS[message.state],
        sequence=message.sequence,
        generation=message.generation,
        accept_time=time_to_proto(message.accept_time),
        acknowledge_time=time_to_proto(settled) if settled else None,
    )


def time_to_proto(moment: datetime) -> Timestamp:
    timestamp = Timestamp()
    timestamp.FromDatetime(moment)
    return timestamp


def duration_to_proto(seconds: float) -> Duration:
    duration = Duration()
    duration.FromMilliseconds(round(seconds * 1000))
    return duration


def known(field: str, number: K, table: Mapping[K, T]) -> T | None:
    """What an enum field says; None when unset. Raises for unknown numbers."""
    if number == 0:
        return None
    if number not in table:
        raise ServiceError(
            Reason.FIELD_INVALID,
            f"cannot use {number} as {field}: use one of the documented values",
            field=field,
        )
    return table[number]


def number(field: str, given: int, highest: int = NUMBER_MAX) -> int:
    """A number that is neither negative nor absurd."""
    if not 0 <= given <= highest:
        raise ServiceError(
            Reason.FIELD_INVALID,
            f"cannot use {given} as {field}: give 0 to {highest}",
            field=field,
        )
    return given


def required_id(field: str, given: str) -> str:
    """An id that must be there, such as a boot's."""
    if not given:
        raise ServiceError(
            Reason.FIELD_REQUIRED, f"cannot go on without {field}: set it", field=field
        )
    return check_id(given, field)


def agent_id(given: str, town: str) -> str:
    """The id of an agent of the town, from its name or as it is."""
    if "/" not in given:
        return check_id(given, "agent")
    name = AgentName.parse(given)
    return name.agent if name.town == town else _foreign(given, town)


def slot_id(given: str, town: str) -> str:
    """The slot of an instance of the town, from its name or as it is."""
    if "/" not in given:
        return check_id(given, "instance")
    name = InstanceName.parse(given)
    return name.instance if name.town == town else _foreign(given, town)


def _foreign(given: str, town: str) -> str:
    raise ServiceError(
        Reason.NAME_MALFORMED,
        f"cannot mix towns, {given} is not in towns/{town}: ask each by itself",
        value=given,
    )


def agent_names(town: str, agents: tuple[str, ...] | list[str]) -> list[str]:
    return [str(AgentName(town, agent)) for agent in agents]
