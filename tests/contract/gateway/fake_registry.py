"""A registry in memory, as far as the gateway calls it."""

from __future__ import annotations

import json
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from services.chassis.access import RENEWAL_GRACE_S
from services.chassis.auth import Kind, rule
from services.chassis.errors import Reason, ServiceError
from townkeeper.registry.v1 import callbacks_pb2 as callbacks
from townkeeper.registry.v1 import registry_pb2 as pb
from townkeeper.registry.v1 import registry_pb2_grpc
from townkeeper.registry.v1 import resources_pb2 as res

SERVICE = pb.DESCRIPTOR.services_by_name["RegistryService"].full_name
_ALL = (Kind.CONTAINER, Kind.USER, Kind.OPERATOR)
_OWN = (*_ALL, Kind.AGENT)
_CALLERS = {
    "RegisterAgent": _ALL,
    "GetAgent": _OWN,
    "ListAgents": _ALL,
    "UpdateAgent": _ALL,
    "ReplaceAgents": (Kind.CONTAINER,),
    "ResolveAgent": _OWN,
    "ListInstances": _ALL,
    "AnnounceDrain": (Kind.CONTAINER, Kind.OPERATOR),
    "GetDrainStatus": (Kind.CONTAINER, Kind.OPERATOR),
    "ConfirmReady": (Kind.CONTAINER, Kind.OPERATOR),
    "EnqueueMessage": _OWN,
    "ReportAgent": (Kind.CONTAINER, Kind.AGENT),
    "AppendAgentEvent": (Kind.CONTAINER, Kind.AGENT),
    "ListAgentEvents": _OWN,
    "EnqueueNudge": _OWN,
    "ListNudges": _OWN,
    "AcknowledgeNudge": (Kind.CONTAINER, Kind.AGENT),
}
POLICY = {f"/{SERVICE}/{name}": rule(*kinds) for name, kinds in _CALLERS.items()}
POLICY[f"/{SERVICE}/IssueContainerToken"] = rule(
    Kind.CONTAINER, grace_s=RENEWAL_GRACE_S
)
# Fewer than any test has, so that whoever stops at the first page is found out.
PAGE = 2
Agent = res.Agent


class FakeRegistry(registry_pb2_grpc.RegistryServiceServicer):
    """One town or several; `supervisor` is the address it resolves agents to."""

    def __init__(self) -> None:
        self.supervisor = ""
        self.reset()

    def reset(self) -> None:
        self.agents: dict[str, Agent] = {}
        self.leased: set[str] = set()
        self.inbox: dict[str, res.Message] = {}
        self.instances = [self.instance("towns/town-1/instances/slot-1")]
        self.reports: list[pb.ReportAgentRequest] = []
        self.events: list[pb.AppendAgentEventRequest] = []
        self.dropped = 0
        self.nudges: dict[str, pb.EnqueueNudgeRequest] = {}
        self.nonce = ""
        self.bound: list[str] = []
        self.fail: ServiceError | None = None

    def instance(self, name: str, state: Any = res.Instance.STATE_READY) -> Any:
        instance = res.Instance(name=name, address=self.supervisor, state=state)
        instance.register_time.FromJsonString("2026-01-01T00:00:00Z")
        return instance

    def add(self, name: str, state: Any = Agent.STATE_ACTIVE, **fields: Any) -> Agent:
        agent = Agent(name=f"towns/town-1/agents/{name}", state=state, **fields)
        agent.update_time.seconds = len(self.agents) + 1
        self.agents[agent.name] = agent
        return agent

    async def RegisterAgent(self, request: Any, context: Any) -> Any:
        if self.fail:
            raise self.fail
        active = request.name in self.agents and (
            self.agents[request.name].state == Agent.STATE_ACTIVE
        )
        wanted = not request.configure_only or active
        state = Agent.STATE_ACTIVE if wanted else Agent.STATE_CONFIGURED
        name = request.name.rpartition("/")[2]
        return pb.RegisterAgentResponse(
            agent=self.add(name, state=state, spec=request.spec)
        )

    async def GetAgent(self, request: Any, context: Any) -> Any:
        return pb.GetAgentResponse(agent=self._agent(request.name))

    async def ListAgents(self, request: Any, context: Any) -> Any:
        if self.fail:
            raise self.fail
        found = [
            agent
            for agent in self.agents.values()
            if agent.name.startswith(f"{request.parent}/")
            and request.state in (0, agent.state)
            and request.role in (0, agent.spec.role)
        ]
        start = int(request.page_token or 0)
        end = start + min(PAGE, request.page_size or PAGE)
        return pb.ListAgentsResponse(
            agents=found[start:end],
            next_page_token=str(end) if end < len(found) else "",
        )

    async def UpdateAgent(self, request: Any, context: Any) -> Any:
        agent = self._agent(request.agent.name)
        for path in request.update_mask.paths:
            field = path.removeprefix("spec.")
            setattr(agent.spec, field, getattr(request.agent.spec, field))
        return pb.UpdateAgentResponse(agent=agent)

    async def ReplaceAgents(self, request: Any, context: Any) -> Any:
        if self.fail:
            raise self.fail
        self.agents = {}
        for text in request.entries_json:
            agent = json.loads(text)["agentId"]
            self.add(agent, entry_json=text)
        return pb.ReplaceAgentsResponse()

    async def ResolveAgent(self, request: Any, context: Any) -> Any:
        if not self.instances:
            raise ServiceError(Reason.NO_INSTANCE, "cannot find a live instance")
        return pb.ResolveAgentResponse(
            instance=self.instances[0], holds_lease=request.name in self.leased
        )

    async def ListInstances(self, request: Any, context: Any) -> Any:
        return pb.ListInstancesResponse(instances=self.instances)

    async def EnqueueMessage(self, request: Any, context: Any) -> Any:
        self._agent(request.parent)
        name = f"{request.parent}/messages/{request.message_id}"
        known = self.inbox.get(name)
        if known is not None and known.text != request.text:
            raise ServiceError(Reason.MESSAGE_REUSED, "cannot use this id again")
        message = res.Message(name=name, text=request.text, model=request.model)
        self.inbox.setdefault(name, message)
        return pb.EnqueueMessageResponse(message=message, created=known is None)

    async def ReportAgent(self, request: Any, context: Any) -> Any:
        self._agent(request.name)
        self.reports.append(request)
        return pb.ReportAgentResponse(drain_nonce=self.nonce)

    async def AppendAgentEvent(self, request: Any, context: Any) -> Any:
        self._agent(request.parent)
        self.events.append(request)
        return pb.AppendAgentEventResponse()

    async def ListAgentEvents(self, request: Any, context: Any) -> Any:
        self._agent(request.parent)
        events = [
            callbacks.AgentEvent(
                id=number,
                type=each.event.type,
                data_json=each.event.data_json,
                create_time=Timestamp(seconds=1767323045, nanos=678000000),
            )
            for number, each in enumerate(self.events, start=1)
            if each.parent == request.parent and number > request.after_id
        ]
        return pb.ListAgentEventsResponse(
            events=events[: request.page_size], dropped_count=self.dropped
        )

    async def EnqueueNudge(self, request: Any, context: Any) -> Any:
        self._agent(request.parent)
        request.nudge.name = f"{request.parent}/nudges/{request.nudge_id}"
        request.nudge.create_time.seconds = 1767323045
        self.nudges[request.nudge.name] = request
        return pb.EnqueueNudgeResponse(nudge=request.nudge, created=True)

    async def ListNudges(self, request: Any, context: Any) -> Any:
        self._agent(request.parent)
        found = [
            each.nudge for each in self.nudges.values() if each.parent == request.parent
        ]
        return pb.ListNudgesResponse(nudges=found)

    async def AcknowledgeNudge(self, request: Any, context: Any) -> Any:
        if request.name not in self.nudges:
            raise ServiceError(Reason.MESSAGE_NOT_FOUND, "cannot find it")
        del self.nudges[request.name]
        return pb.AcknowledgeNudgeResponse()

    async def AnnounceDrain(self, request: Any, context: Any) -> Any:
        names = [instance.name for instance in self.instances]
        for name in request.instances:
            if name not in names:
                raise ServiceError(Reason.INSTANCE_NOT_FOUND, "cannot find it")
        self.nonce, self.bound = "nonce-1", list(request.instances) or names
        return pb.AnnounceDrainResponse(nonce=self.nonce, instances=self.bound)

    async def IssueContainerToken(self, request: Any, context: Any) -> Any:
        if self.fail:
            raise self.fail
        return pb.IssueContainerTokenResponse(token=f"new token of {request.parent}")

    async def GetDrainStatus(self, request: Any, context: Any) -> Any:
        return pb.GetDrainStatusResponse(draining=bool(self.nonce), nonce=self.nonce)

    async def ConfirmReady(self, request: Any, context: Any) -> Any:
        cleared = self.nonce in ("", request.nonce)
        self.nonce = "" if cleared else self.nonce
        return pb.ConfirmReadyResponse(cleared=cleared)

    def _agent(self, name: str) -> Agent:
        if name not in self.agents:
            raise ServiceError(
                Reason.AGENT_NOT_FOUND, f"cannot find {name}: register it"
            )
        return self.agents[name]
