"""The wire of the supervisor: protos in, a call to the roster, protos out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import grpc.aio

from services.chassis.errors import Reason, ServiceError
from services.chassis.names import AgentName, SnapshotName, TownName
from services.supervisor.agent import STOP_GRACE_S, Agent
from services.supervisor.drain import Drain
from services.supervisor.exec_runtime import ExecPolicy
from services.supervisor.roster import Roster
from services.supervisor.run import Run
from services.supervisor.surroundings import Surroundings
from services.supervisor.wire import (
    event_to_proto,
    run_to_proto,
    spec_from_proto,
    workspace_save_to_proto,
)
from townkeeper.registry.v1 import resources_pb2 as registry_pb
from townkeeper.supervisor.v1 import resources_pb2, supervisor_pb2_grpc
from townkeeper.supervisor.v1 import supervisor_pb2 as pb

Context = grpc.aio.ServicerContext[Any, Any]

PAGE_DEFAULT: Final = 50
PAGE_MAX: Final = 500
GRACE_MAX_S: Final = 300.0
BUDGET_DEFAULT_S: Final = 600.0
BUDGET_MAX_S: Final = 3600.0


class SupervisorServicer(supervisor_pb2_grpc.SupervisorServiceServicer):
    """Implements `SupervisorService`; the contract is told in its proto."""

    def __init__(
        self,
        roster: Roster,
        drain: Drain,
        around: Surroundings,
        exec_policy: ExecPolicy,
        refresh: Callable[[str], Awaitable[None]],
    ) -> None:
        self._roster = roster
        self._drain = drain
        self._refresh = refresh
        self._around = around
        self._exec_policy = exec_policy

    async def StartAgent(
        self, request: pb.StartAgentRequest, context: Context
    ) -> pb.StartAgentResponse:
        name = AgentName.parse(request.name)
        if request.HasField("spec"):
            self._check_startable(request.spec)
            await self._around.registry.register(name, request.spec)
        try:
            run = await self._roster.start(name)
        except ServiceError as error:
            if error.reason is not Reason.AGENT_NOT_FOUND:
                raise
            raise ServiceError(
                Reason.NO_START_REQUEST,
                f"cannot start {name}: nothing is stored for it; give a spec",
                agent=name,
            ) from error
        return pb.StartAgentResponse(run=self._proto(run))

    def _check_startable(self, spec: registry_pb.AgentSpec) -> None:
        """What this instance refuses is refused before anything is stored."""
        parsed = spec_from_proto(spec)
        self._around.runtime(parsed.runtime)
        if parsed.runtime == "exec":
            self._exec_policy.program(parsed.command)

    async def StopAgent(
        self, request: pb.StopAgentRequest, context: Context
    ) -> pb.StopAgentResponse:
        grace_s = STOP_GRACE_S
        if request.HasField("grace"):
            grace_s = request.grace.ToTimedelta().total_seconds()
        if not 0 <= grace_s <= GRACE_MAX_S:
            raise ServiceError(
                Reason.FIELD_INVALID,
                f"cannot wait {grace_s:g} s: give a grace of 0 to {GRACE_MAX_S:g} s",
                field="grace",
            )
        run = await self._roster.stop(AgentName.parse(request.name), grace_s)
        return pb.StopAgentResponse(run=self._proto(run))

    async def UpdateAgentModel(
        self, request: pb.UpdateAgentModelRequest, context: Context
    ) -> pb.UpdateAgentModelResponse:
        if not request.model:
            raise ServiceError(
                Reason.FIELD_REQUIRED,
                "cannot change the model: give `model` as provider/model",
                field="model",
            )
        agent = self._roster.find(AgentName.parse(request.name))
        run = await agent.set_model(request.model, request.small_model)
        return pb.UpdateAgentModelResponse(run=self._proto(run))

    async def SaveAgent(
        self, request: pb.SaveAgentRequest, context: Context
    ) -> pb.SaveAgentResponse:
        saver = await self._roster.save(AgentName.parse(request.name))
        response = pb.SaveAgentResponse(generation=saver.generation)
        if saver.saved_at is not None:
            response.save_time.FromDatetime(saver.saved_at)
        return response

    async def RestoreAgent(
        self, request: pb.RestoreAgentRequest, context: Context
    ) -> pb.RestoreAgentResponse:
        name = SnapshotName.parse(request.name)
        restored, replaced = await self._roster.restore(
            AgentName(name.town, name.agent), name.generation
        )
        return pb.RestoreAgentResponse(
            generation=restored, replaced_generation=replaced
        )

    async def GetRun(
        self, request: pb.GetRunRequest, context: Context
    ) -> pb.GetRunResponse:
        agent = self._roster.find(AgentName.parse(request.name))
        return pb.GetRunResponse(run=self._agent_proto(agent))

    async def ListRuns(
        self, request: pb.ListRunsRequest, context: Context
    ) -> pb.ListRunsResponse:
        self._roster.check_town(TownName.parse(request.parent).town)
        if request.page_size < 0:
            raise _page_error("page_size")
        size = min(request.page_size or PAGE_DEFAULT, PAGE_MAX)
        agents = [agent for agent in self._roster.agents if agent.run is not None]
        if request.page_token:
            after = AgentName(self._around.identity.town, request.page_token)
            agents = [agent for agent in agents if str(agent.name) > str(after)]
        page = agents[:size]
        more = len(agents) > size
        return pb.ListRunsResponse(
            runs=[self._agent_proto(agent) for agent in page],
            next_page_token=page[-1].name.agent if more else "",
        )

    async def WatchEvents(
        self, request: pb.WatchEventsRequest, context: Context
    ) -> AsyncIterator[pb.WatchEventsResponse]:
        parent_town, agent = _parent(request.parent)
        self._roster.check_town(parent_town)
        log, town = self._around.events, self._around.identity.town
        if request.kept_only:
            for event in log.kept(log.after(request.resume_token, agent), agent):
                yield pb.WatchEventsResponse(
                    event=event_to_proto(event, town), resume_token=log.token(event)
                )
            return
        async for event in log.watch(request.resume_token, agent):
            yield pb.WatchEventsResponse(
                event=event_to_proto(event, town), resume_token=log.token(event)
            )

    async def TailOutput(
        self, request: pb.TailOutputRequest, context: Context
    ) -> AsyncIterator[pb.TailOutputResponse]:
        agent = self._roster.find(AgentName.parse(request.name))
        if request.limit < 0:
            raise _page_error("limit")
        async for piece in agent.output.tail(request.limit, request.follow):
            yield pb.TailOutputResponse(data=piece.data, offset=piece.offset)

    async def RefreshCredentials(
        self, request: pb.RefreshCredentialsRequest, context: Context
    ) -> pb.RefreshCredentialsResponse:
        self._roster.check_town(TownName.parse(request.parent).town)
        await self._refresh(request.token)
        alive = sum(agent.alive for agent in self._roster.agents)
        return pb.RefreshCredentialsResponse(agent_count=alive)

    async def Drain(
        self, request: pb.DrainRequest, context: Context
    ) -> AsyncIterator[pb.DrainResponse]:
        self._roster.check_town(TownName.parse(request.parent).town)
        budget_s = BUDGET_DEFAULT_S
        if request.HasField("budget"):
            budget_s = request.budget.ToTimedelta().total_seconds()
        if not 0 <= budget_s <= BUDGET_MAX_S:
            raise ServiceError(
                Reason.FIELD_INVALID,
                f"cannot drain in {budget_s:g} s: give a budget of 0 to"
                f" {BUDGET_MAX_S:g} s",
                field="budget",
            )
        self._drain.begin(budget_s)
        async for receipt in self._drain.receipts():
            response = pb.DrainResponse(
                run=self._proto(receipt.run), remaining_count=receipt.remaining
            )
            if receipt.workspace is not None:
                saved = workspace_save_to_proto(receipt.workspace)
                response.workspace.CopyFrom(saved)
            yield response

    def _proto(self, run: Run) -> resources_pb2.Run:
        return run_to_proto(run, self._around.identity, 0.0)

    def _agent_proto(self, agent: Agent) -> resources_pb2.Run:
        assert agent.run is not None
        return run_to_proto(agent.run, self._around.identity, agent.lag_s)


def _parent(parent: str) -> tuple[str, str | None]:
    """The town, and the agent that is watched; None for the whole town."""
    if "/agents/" in parent:
        name = AgentName.parse(parent)
        return name.town, name.agent
    return TownName.parse(parent).town, None


def _page_error(field: str) -> ServiceError:
    return ServiceError(
        Reason.FIELD_INVALID,
        f"cannot use a negative {field}: give 0 for the default",
        field=field,
    )
