"""A supervisor whose runs are records: they start, stop and tell what tests say."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from services.chassis.auth import Kind, rule
from services.chassis.errors import Reason, ServiceError
from tests.contract.gateway.fake_registry import FakeRegistry
from townkeeper.registry.v1 import resources_pb2 as registry
from townkeeper.supervisor.v1 import resources_pb2 as res
from townkeeper.supervisor.v1 import supervisor_pb2 as pb
from townkeeper.supervisor.v1 import supervisor_pb2_grpc

SERVICE = pb.DESCRIPTOR.services_by_name["SupervisorService"].full_name
_ALL = (Kind.CONTAINER, Kind.USER, Kind.OPERATOR)
_OWN = (*_ALL, Kind.AGENT)
_CALLERS = {
    "StartAgent": _ALL,
    "StopAgent": _ALL,
    "UpdateAgentModel": _ALL,
    "GetRun": _OWN,
    "ListRuns": _ALL,
    "WatchEvents": _OWN,
}
POLICY = {f"/{SERVICE}/{name}": rule(*kinds) for name, kinds in _CALLERS.items()}
Run = res.Run


class FakeSupervisor(supervisor_pb2_grpc.SupervisorServiceServicer):
    """Faults: `refuse` is raised by every start; `hold` makes starts wait."""

    def __init__(self, registry: FakeRegistry) -> None:
        self._registry = registry
        self.reset()

    def reset(self) -> None:
        self.runs: dict[str, Run] = {}
        self.specs: list[registry.AgentSpec | None] = []
        self.events: list[res.Event] = []
        self.refuse: ServiceError | None = None
        self.hold = False
        self.held = 0
        self.cancelled = 0

    def run(self, name: str, state: Any = Run.STATE_RUNNING, **fields: Any) -> Run:
        """A run of an agent that this instance has the lease of."""
        fields = {"epoch": 1, "status": "idle", "port": 4096, **fields}
        agent = f"towns/town-1/agents/{name}"
        run = Run(
            name=f"{agent}/runs/1",
            state=state,
            instance="towns/town-1/instances/slot-1",
            **fields,
        )
        run.start_time.FromJsonString("2026-01-02T03:04:05Z")
        self.runs[agent] = run
        self._registry.leased.add(agent)
        return run

    async def StartAgent(self, request: Any, context: Any) -> Any:
        if self.refuse:
            raise self.refuse
        spec = request.spec if request.HasField("spec") else None
        known = self._registry.agents.get(request.name)
        if spec is None and known is None:
            raise ServiceError(Reason.NO_START_REQUEST, "cannot start: give a spec")
        await self._wait()
        self.specs.append(spec)
        used = spec or (known.spec if known else registry.AgentSpec())
        name = request.name.rpartition("/")[2]
        self._registry.add(name, spec=used)
        run = self.run(name, role=used.role, model=used.model, workdir="/home/w")
        return pb.StartAgentResponse(run=run)

    async def _wait(self) -> None:
        self.held += 1
        try:
            while self.hold:
                await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    async def StopAgent(self, request: Any, context: Any) -> Any:
        run = self._find(request.name)
        run.state, run.exit_reason = Run.STATE_EXITED, "stopped"
        if request.name in self._registry.agents:
            agent = self._registry.agents[request.name]
            agent.state, agent.end_reason = registry.Agent.STATE_ENDED, "stopped"
        self._registry.leased.discard(request.name)
        return pb.StopAgentResponse(run=run)

    async def UpdateAgentModel(self, request: Any, context: Any) -> Any:
        run = self._find(request.name)
        run.model = request.model
        return pb.UpdateAgentModelResponse(run=run)

    async def GetRun(self, request: Any, context: Any) -> Any:
        return pb.GetRunResponse(run=self._find(request.name))

    async def ListRuns(self, request: Any, context: Any) -> Any:
        return pb.ListRunsResponse(runs=self.runs.values())

    async def WatchEvents(
        self, request: Any, context: Any
    ) -> AsyncIterator[pb.WatchEventsResponse]:
        assert request.kept_only
        for event in self.events:
            if event.agent == request.parent:
                yield pb.WatchEventsResponse(event=event)

    def _find(self, name: str) -> Run:
        if name not in self.runs:
            raise ServiceError(Reason.RUN_NOT_FOUND, f"cannot find a run of {name}")
        return self.runs[name]
