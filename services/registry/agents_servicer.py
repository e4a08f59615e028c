"""The calls about records: proto in, rules, proto out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, Final
from weakref import WeakKeyDictionary

from services.chassis.auth import Kind, current_caller
from services.chassis.errors import Reason, ServiceError
from services.chassis.names import AgentName, TownName, check_id
from services.registry import wire
from services.registry.agent_feed import Watches
from services.registry.changes import Step, resume_position
from services.registry.entries import parse_entries
from services.registry.pages import page_size, page_start, page_token
from services.registry.specs import check_paths, problems_of, refuse, updated
from services.registry.store import AgentStore
from townkeeper.registry.v1 import registry_pb2 as pb

# An update reads, then writes that version; heartbeats may change it in between.
UPDATE_TRIES: Final = 5
# What a watch is sent, by whether it shows values; gone with the step.
_messages: Final = WeakKeyDictionary[Step, dict[bool, pb.WatchAgentsResponse]]()


class AgentsServicer:
    """Records of agents."""

    _agents: AgentStore
    _watches: Watches

    async def RegisterAgent(
        self, request: pb.RegisterAgentRequest, context: Any
    ) -> pb.RegisterAgentResponse:
        name = AgentName.parse(request.name)
        spec = wire.spec_from_proto(request.spec)
        refuse(problems_of(spec))
        if request.request_id:
            check_id(request.request_id, "request")
        agent = await self._agents.register_agent(
            name,
            spec,
            configure_only=request.configure_only,
            etag=request.etag,
            request_id=request.request_id,
        )
        return pb.RegisterAgentResponse(
            agent=wire.agent_to_proto(agent, reveal=_trusted())
        )

    async def GetAgent(
        self, request: pb.GetAgentRequest, context: Any
    ) -> pb.GetAgentResponse:
        agent = await self._agents.get_agent(AgentName.parse(request.name))
        return pb.GetAgentResponse(agent=wire.agent_to_proto(agent, reveal=_trusted()))

    async def ListAgents(
        self, request: pb.ListAgentsRequest, context: Any
    ) -> pb.ListAgentsResponse:
        town = TownName.parse(request.parent).town
        state = wire.known("state", request.state, wire.STATES)
        role = wire.known("role", request.role, wire.ROLES)
        scope = f"ListAgents {town} {state} {role}"
        page = await self._agents.list_agents(
            town,
            after=page_start(scope, request.page_token),
            limit=page_size(request.page_size),
            state=state,
            role=role,
        )
        reveal = _trusted()
        return pb.ListAgentsResponse(
            agents=[wire.agent_to_proto(agent, reveal=reveal) for agent in page.agents],
            next_page_token=page_token(scope, page.after),
        )

    async def UpdateAgent(
        self, request: pb.UpdateAgentRequest, context: Any
    ) -> pb.UpdateAgentResponse:
        name = AgentName.parse(request.agent.name)
        paths = check_paths(request.update_mask.paths)
        given = wire.spec_from_proto(request.agent.spec, "agent.spec.")
        tries = 1 if request.agent.etag else UPDATE_TRIES
        while True:
            old = await self._agents.get_agent(name)
            if old.spec is None and "spec" not in paths:
                raise ServiceError(
                    Reason.FIELD_INVALID,
                    f"cannot change parts of {name}, it has no complete spec: "
                    "replace spec as a whole",
                    field="update_mask",
                )
            spec = updated(old.spec or given, given, paths, sees_values=_trusted())
            refuse(problems_of(spec), "agent.spec.")
            etag = request.agent.etag or old.etag
            try:
                agent = await self._agents.replace_spec(name, spec, etag)
            except ServiceError as error:
                tries -= 1
                if error.reason is not Reason.ETAG_MISMATCH or not tries:
                    raise
            else:
                message = wire.agent_to_proto(agent, reveal=_trusted())
                return pb.UpdateAgentResponse(agent=message)

    async def DeregisterAgent(
        self, request: pb.DeregisterAgentRequest, context: Any
    ) -> pb.DeregisterAgentResponse:
        name = AgentName.parse(request.name)
        await self._agents.deregister_agent(name, request.etag)
        return pb.DeregisterAgentResponse()

    async def ReplaceAgents(
        self, request: pb.ReplaceAgentsRequest, context: Any
    ) -> pb.ReplaceAgentsResponse:
        town = TownName.parse(request.parent).town
        entries = parse_entries(request.entries_json)
        kept = await self._agents.replace_agents(town, entries)
        return pb.ReplaceAgentsResponse(kept=wire.agent_names(town, kept))

    async def WatchAgents(
        self, request: pb.WatchAgentsRequest, context: Any
    ) -> AsyncIterator[pb.WatchAgentsResponse]:
        town = TownName.parse(request.parent).town
        position = resume_position(town, request.resume_token)
        reveal = _trusted()
        async with aclosing(self._watches.watch(town, position)) as steps:
            async for step in steps:
                yield _step_message(town, step, reveal)
                del step


def _trusted() -> bool:
    """Whether the caller may see the values of variables, and entries."""
    return current_caller.get().kind is Kind.CONTAINER


def _step_message(town: str, step: Step, reveal: bool) -> pb.WatchAgentsResponse:
    """The step as a message, made once for all who are sent the same."""
    made = _messages.setdefault(step, {})
    if reveal not in made:
        made[reveal] = wire.step_to_proto(town, step, reveal=reveal)
    return made[reveal]
