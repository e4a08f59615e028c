"""Who may call what: every method, every kind of credential, own and foreign."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from services.chassis.auth import Kind
from services.chassis.errors import Reason, ServiceError
from services.registry.policy import POLICY, SERVICE
from tests.support.registry_samples import BOOT, FIRST, MAYOR, POLECAT
from tests.support.registry_server import refused
from tests.support.tokens import FOREIGN_TOWN, TOWN
from townkeeper.registry.v1 import registry_pb2 as pb

DESCRIPTOR = pb.DESCRIPTOR.services_by_name["RegistryService"]
METHODS = [method.name for method in DESCRIPTOR.methods]
PROTO = Path(pb.__file__).with_name("registry.proto")
# What a request can be about, by its field.
NAMES = {
    "RegisterInstance": str(FIRST),
    "Heartbeat": str(FIRST),
    "ReleaseInstance": str(FIRST),
    "AcknowledgeMessage": f"{MAYOR}/messages/m-1",
    "EnqueueMessage": str(MAYOR),
    "ListMessages": str(MAYOR),
    "AppendAgentEvent": str(MAYOR),
    "ListAgentEvents": str(MAYOR),
    "EnqueueNudge": str(MAYOR),
    "ListNudges": str(MAYOR),
    "AcknowledgeNudge": f"{MAYOR}/nudges/n-1",
}
OPEN_TO_AGENTS = [
    "GetAgent",
    "ResolveAgent",
    "EnqueueMessage",
    "ListMessages",
    "ReportAgent",
    "GetAgentReports",
    "AppendAgentEvent",
    "ListAgentEvents",
    "EnqueueNudge",
    "ListNudges",
    "AcknowledgeNudge",
]


def request_about(method: str, old: str = "", new: str = "") -> Any:
    """A request that is well named, with part of the name replaced."""
    request = getattr(pb, f"{method}Request")()
    fields = request.DESCRIPTOR.fields_by_name
    if "agent" in fields and fields["agent"].message_type:
        request.agent.name = str(MAYOR).replace(old, new)
    elif "parent" in fields:
        name = NAMES.get(method, f"towns/{TOWN}")
        request.parent = name.replace(old, new)
    elif "name" in fields:
        request.name = NAMES.get(method, str(MAYOR)).replace(old, new)
    else:
        request.instance = str(FIRST).replace(old, new)
    if "boot_id" in fields:
        request.boot_id = BOOT
    if method == "RevokeTokens":
        request.runs.append(f"{MAYOR}/runs/r".replace(old, new))
    return request


async def outcome(stub: Any, method: str, request: Any) -> Reason | None:
    """The reason of a refusal, None for an answer; streams give their first."""
    call = getattr(stub, method)(request)
    try:
        if DESCRIPTOR.methods_by_name[method].server_streaming:
            await call.read()
            call.cancel()
        else:
            await call
    except Exception as error:
        return ServiceError.from_rpc(error).reason  # type: ignore[arg-type]
    return None


def documented_callers(method: str) -> set[Kind]:
    """Who may call a method, as its comment says."""
    comment = PROTO.read_text().partition(f"  rpc {method}(")[0].rpartition("\n\n")[2]
    sentence = re.search(r"Caller: (.*?)\.", comment, re.DOTALL)
    assert sentence is not None, comment
    words = re.findall(r"container|agent|user|operator|service", sentence[1])
    return {Kind(word) for word in words}


def test_every_method_names_its_callers():
    """A method without a row would be refused to all; say so before it ships."""
    assert {f"/{SERVICE}/{method}" for method in METHODS} == set(POLICY)


@pytest.mark.parametrize("method", METHODS)
def test_the_contract_says_who_may_call(method):
    """The comment in the proto and the policy agree."""
    assert documented_callers(method) == POLICY[f"/{SERVICE}/{method}"].kinds


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("method", METHODS)
async def test_other_kinds_are_refused_before_anything_is_looked_up(
    registry, method, kind
):
    """Whoever may call gets an answer about the request, all others the same no."""
    reason = await outcome(registry.stub(kind), method, request_about(method))

    allowed = kind in POLICY[f"/{SERVICE}/{method}"].kinds
    assert allowed == (reason is not Reason.ROLE_INSUFFICIENT)
    assert reason not in {Reason.TOWN_FOREIGN, Reason.TOKEN_INVALID}


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("method", METHODS)
async def test_another_town_is_refused(registry, method, kind):
    """No credential of one town reaches another."""
    request = request_about(method, f"towns/{TOWN}", f"towns/{FOREIGN_TOWN}")
    token = registry.tokens.of_kind(kind)
    if kind is Kind.OPERATOR:
        token = registry.tokens.operator(TOWN)

    reason = await outcome(registry.stub(token), method, request)

    allowed = kind in POLICY[f"/{SERVICE}/{method}"].kinds
    assert (Reason.TOWN_FOREIGN if allowed else Reason.ROLE_INSUFFICIENT) is reason


@pytest.mark.parametrize("method", OPEN_TO_AGENTS)
async def test_an_agent_reaches_no_other_agent(registry, method):
    """Its credential is for itself."""
    request = request_about(method, str(MAYOR), str(POLECAT))

    reason = await outcome(registry.stub(Kind.AGENT), method, request)

    assert Reason.AGENT_FOREIGN is reason


@pytest.mark.parametrize("method", METHODS)
async def test_a_call_without_a_token_is_refused(registry, method):
    """Nothing but health and reflection is open."""
    reason = await outcome(registry.stub(""), method, request_about(method))

    assert Reason.TOKEN_MISSING is reason


@pytest.mark.parametrize(
    ("method", "field", "value"),
    [
        ("ClaimAgents", "agents", f"towns/{FOREIGN_TOWN}/agents/spy"),
        ("AnnounceDrain", "instances", f"towns/{FOREIGN_TOWN}/instances/spy"),
    ],
    ids=["claim", "drain"],
)
async def test_names_inside_a_request_are_held_to_the_town_as_well(
    registry, method, field, value
):
    """A list of names is no way around the credential."""
    request = request_about(method)
    getattr(request, field).append(value)

    reason = await outcome(registry.stub(), method, request)

    assert Reason.TOWN_FOREIGN is reason


async def test_runs_of_another_town_are_refused(registry):
    """A heartbeat speaks of its own town only."""
    run = pb.RunEvidence(agent=f"towns/{FOREIGN_TOWN}/agents/spy", epoch=1)
    request = pb.HeartbeatRequest(name=str(FIRST), boot_id=BOOT, runs=[run])

    error = await refused(registry.stub().Heartbeat(request))

    assert Reason.NAME_MALFORMED is error.reason
