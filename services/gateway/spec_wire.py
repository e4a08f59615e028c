"""Start requests in JSON ⇄ specs of agents, and lists of them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Final

from services.gateway.json_body import Fields
from townkeeper.registry.v1 import resources_pb2 as registry

ROLES: Final = {
    "mayor": registry.ROLE_MAYOR,
    "polecat": registry.ROLE_POLECAT,
    "refinery": registry.ROLE_REFINERY,
    "triage": registry.ROLE_TRIAGE,
}
RUNTIMES: Final = {
    "kilo": registry.RUNTIME_KILO,
    "opencode": registry.RUNTIME_OPENCODE,
    "exec": registry.RUNTIME_EXEC,
}
RESUMES: Final = {"latest": registry.RESUME_LATEST, "fresh": registry.RESUME_FRESH}
# Text fields of a start request: as JSON spells them, as the proto does.
TEXTS: Final = {
    "rigId": "rig_id",
    "name": "display_name",
    "identity": "identity",
    "prompt": "prompt",
    "model": "model",
    "smallModel": "small_model",
    "systemPrompt": "system_prompt",
    "gitUrl": "git_url",
    "branch": "branch",
    "defaultBranch": "default_branch",
    "platformIntegrationId": "platform_integration_id",
    "startPoint": "start_point",
    "organizationId": "organization_id",
    "database": "database",
}
# Those that the original always has, empty or not.
_ALWAYS: Final = frozenset(
    {"rigId", "name", "identity", "prompt", "model", "gitUrl", "branch"}
    | {"defaultBranch"}
)
_RIG_TEXTS: Final = {
    "rigId": "rig_id",
    "gitUrl": "git_url",
    "defaultBranch": "default_branch",
    "platformIntegrationId": "platform_integration_id",
}


def spec_from_json(fields: Fields) -> registry.AgentSpec:
    """A start request as a spec; what is wrong is noted in `fields`."""
    spec = registry.AgentSpec(
        role=fields.word("role", ROLES, registry.ROLE_UNSPECIFIED),
        runtime=fields.word("runtime", RUNTIMES, registry.RUNTIME_UNSPECIFIED),
        resume=fields.word("resume", RESUMES, registry.RESUME_UNSPECIFIED),
        env_vars=fields.text_map("envVars"),
        lightweight=fields.flag("lightweight"),
        command=fields.texts("command"),
        rigs=[_rig_from_json(rig) for rig in fields.objects("rigs")],
    )
    for name, field in TEXTS.items():
        setattr(spec, field, fields.text(name))
    return spec


def mayor_spec(fields: Fields, town: str) -> registry.AgentSpec:
    """The start request of a town's mayor; its role and its rig follow from that."""
    spec = spec_from_json(fields)
    if spec.role not in (registry.ROLE_UNSPECIFIED, registry.ROLE_MAYOR):
        fields.complain("must be mayor", "role")
    spec.role = registry.ROLE_MAYOR
    spec.rig_id = spec.rig_id or f"mayor-{town}"
    return spec


def _rig_from_json(fields: Fields) -> registry.RigRef:
    rig = registry.RigRef()
    for name, field in _RIG_TEXTS.items():
        setattr(rig, field, fields.text(name))
    return rig


def spec_to_json(spec: registry.AgentSpec, agent: str, town: str) -> dict[str, Any]:
    """A spec as the start request that would make it."""
    request: dict[str, Any] = {"agentId": agent, "townId": town}
    for name, field in TEXTS.items():
        if name in _ALWAYS or getattr(spec, field):
            request[name] = getattr(spec, field)
    for name, words, number in (
        ("role", ROLES, spec.role),
        ("runtime", RUNTIMES, spec.runtime),
        ("resume", RESUMES, spec.resume),
    ):
        if word := word_of(words, number):
            request[name] = word
    if spec.env_vars:
        request["envVars"] = dict(spec.env_vars)
    if spec.lightweight:
        request["lightweight"] = True
    if spec.command:
        request["command"] = list(spec.command)
    if spec.rigs:
        request["rigs"] = [_rig_to_json(rig) for rig in spec.rigs]
    return request


def _rig_to_json(rig: registry.RigRef) -> dict[str, str]:
    shown = {name: getattr(rig, field) for name, field in _RIG_TEXTS.items()}
    return {name: text for name, text in shown.items() if text}


def word_of(words: dict[str, Any], number: int) -> str:
    return next((word for word, known in words.items() if known == number), "")


def entries_to_json(agents: Iterable[registry.Agent]) -> bytes:
    """The agents as the list that a worker keeps; entries of its own word for word."""
    texts = (agent.entry_json or _entry(agent) for agent in agents)
    return f'{{"success":true,"data":[{",".join(texts)}]}}'.encode()


def _entry(agent: registry.Agent) -> str:
    _, town, _, name = agent.name.split("/")
    entry = {
        "agentId": name,
        "request": spec_to_json(agent.spec, name, town),
        "workdir": "",
        "env": dict(agent.spec.env_vars),
    }
    return json.dumps(entry, ensure_ascii=False, separators=(",", ":"))
