"""Things of a registry to try it with: names, specs, entries."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from services.chassis.names import AgentName, InstanceName, MessageName
from services.registry.entries import Entry, parse_entries
from services.registry.specs import AgentSpec, RigRef, Role, Runtime
from tests.support.tokens import AGENT, OTHER_AGENT, RIG, TOWN

MAYOR = AgentName(TOWN, AGENT)
POLECAT = AgentName(TOWN, OTHER_AGENT)
FIRST = InstanceName(TOWN, "supervisor-1")
SECOND = InstanceName(TOWN, "supervisor-2")
BOOT = "11111111-1111-4111-8111-111111111111"
OTHER_BOOT = "22222222-2222-4222-8222-222222222222"
ADDRESS = "127.0.0.1:50053"

SPEC = AgentSpec(
    rig_id=RIG,
    role=Role.MAYOR,
    display_name="Mayor",
    prompt="Begin.",
    model="kilo/auto",
    env_vars={"GIT_TOKEN": "s3cret"},
    lightweight=True,
    rigs=(RigRef(rig_id=RIG, git_url="https://example.org/r.git"),),
)
OTHER_SPEC = replace(SPEC, model="kilo/other")
EXEC_SPEC = AgentSpec(
    rig_id=RIG, role=Role.POLECAT, runtime=Runtime.EXEC, command=("/bin/agent",)
)


def message(message_id: str, agent: AgentName = MAYOR) -> MessageName:
    return MessageName(agent.town, agent.agent, message_id)


def request(agent: str = OTHER_AGENT, **changes: Any) -> dict[str, Any]:
    """A StartAgentRequest as today's workers send it."""
    return {
        "agentId": agent,
        "rigId": RIG,
        "townId": TOWN,
        "role": "polecat",
        "name": "Toast",
        "identity": "toast",
        "prompt": "Begin.",
        "model": "kilo/auto",
        "gitUrl": "https://example.org/r.git",
        "branch": "polecat/toast",
        "defaultBranch": "main",
        "envVars": {"GIT_TOKEN": "s3cret", "GASTOWN_TOWN_ID": TOWN},
        **changes,
    }


def entry_json(agent: str = OTHER_AGENT, **changes: Any) -> str:
    """An entry of a whole list, reserved variables and all."""
    return json.dumps(
        {
            "agentId": agent,
            "request": request(agent),
            "workdir": f"/workspace/rigs/{agent}",
            "env": {"HOME": "/home/agent", "GASTOWN_API_URL": "https://example.org"},
            **changes,
        }
    )


def entries(*texts: str) -> tuple[Entry, ...]:
    return parse_entries(texts)
