"""What a script's refusal means: its own word → the error that a caller sees."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from services.chassis.errors import ServiceError
from services.chassis.names import AgentName, InstanceName, MessageName, NudgeName
from services.registry import refusals

Given = Mapping[str, Any]


def refusal(word: str, town: str, given: Given) -> ServiceError:
    """`given` is what the script was given and what it said, the latter first."""
    return _TABLE[word](town, given)


def _agent(town: str, given: Given) -> AgentName:
    return AgentName(town, given["agent"])


def _instance(town: str, given: Given) -> InstanceName:
    return InstanceName(town, given["slot"])


def _message(town: str, given: Given) -> MessageName:
    return MessageName(town, given["agent"], given["message"])


def _nudge(town: str, given: Given) -> NudgeName:
    return NudgeName(town, given["agent"], given["nudge"])


_TABLE: Final[Mapping[str, Callable[[str, Given], ServiceError]]] = {
    "AGENT_NOT_FOUND": lambda t, g: refusals.agent_not_found(_agent(t, g)),
    "ETAG_MISMATCH": lambda t, g: refusals.etag_mismatch(_agent(t, g), g["etag"]),
    "REQUEST_REUSED": lambda _, g: refusals.request_reused(g["request_id"]),
    "TOO_MANY_AGENTS": lambda t, g: refusals.too_many_agents(t, g["agents_max"]),
    "LEASE_HELD": lambda t, g: refusals.lease_held(
        _agent(t, g), g["instance"], g["epoch"]
    ),
    "SLOT_FENCED": lambda t, g: refusals.slot_fenced(_instance(t, g), g["boot"]),
    "INSTANCE_NOT_FOUND": lambda t, g: refusals.instance_not_found(_instance(t, g)),
    "TOO_MANY_INSTANCES": lambda t, _: refusals.too_many_instances(t),
    "DRAINING": lambda t, g: refusals.draining(_instance(t, g), g["nonce"]),
    "NO_START_REQUEST": lambda t, g: refusals.no_start_request(_agent(t, g), g["why"]),
    "MESSAGE_REUSED": lambda t, g: refusals.message_reused(_message(t, g)),
    "MESSAGE_NOT_FOUND": lambda t, g: refusals.message_not_found(_message(t, g)),
    "INBOX_FULL": lambda t, g: refusals.inbox_full(_agent(t, g), g["pending_max"]),
    "LEASE_FENCED": lambda t, g: refusals.lease_fenced(
        _agent(t, g), g["instance"], g["boot"], g["epoch"]
    ),
    "NUDGE_REUSED": lambda t, g: refusals.nudge_reused(_nudge(t, g)),
    "NUDGE_NOT_FOUND": lambda t, g: refusals.nudge_not_found(_nudge(t, g)),
    "SETTLED_OTHERWISE": lambda t, g: refusals.settled_otherwise(
        _message(t, g), g["outcome"]
    ),
    "RESUME_TOKEN_EXPIRED": lambda t, _: refusals.resume_token_expired(t),
    "GENERATION_REQUIRED": lambda t, g: refusals.generation_required(_message(t, g)),
}
