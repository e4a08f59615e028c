"""One supervisor as the gateway calls it: for one caller, with that caller's token."""

from __future__ import annotations

from typing import Any, Final, TypeAlias

from services.chassis.errors import Reason, ServiceError, rpc_errors
from services.gateway.transcode import event_to_json
from townkeeper.registry.v1 import resources_pb2 as registry
from townkeeper.supervisor.v1 import resources_pb2, supervisor_pb2_grpc
from townkeeper.supervisor.v1 import supervisor_pb2 as pb

# A start may clone a repository and hydrate a gigabyte.
START_TIMEOUT_S: Final = 300.0
# The default grace of a process (10 s), and the last save of a large session.
STOP_TIMEOUT_S: Final = 120.0
# A change of model may start a new server of the runtime.
MODEL_TIMEOUT_S: Final = 120.0
EVENTS_TIMEOUT_S: Final = 30.0
# An answer holds so much of events; the client asks for the rest by its last id.
EVENTS_BYTES_MAX: Final = 8 * 1024 * 1024
RUNS_PAGE: Final = 500
RUNS_PAGES_MAX: Final = 20

Run: TypeAlias = resources_pb2.Run
AgentSpec: TypeAlias = registry.AgentSpec


class SupervisorClient:
    """Every call raises ServiceError. Names are full: `towns/{town}/agents/{agent}`."""

    def __init__(
        self, stub: supervisor_pb2_grpc.SupervisorServiceAsyncStub, token: str
    ) -> None:
        self._stub = stub
        self._metadata = (("authorization", f"Bearer {token}"),)

    async def start(self, name: str, spec: AgentSpec | None) -> Run:
        """Starts an agent, without a spec from what the registry has."""
        request = pb.StartAgentRequest(name=name, spec=spec)
        with rpc_errors():
            reply = await self._stub.StartAgent(
                request, metadata=self._metadata, timeout=START_TIMEOUT_S
            )
        return reply.run

    async def stop(self, name: str) -> None:
        """Stops an agent. Returns when its last state is durable."""
        request = pb.StopAgentRequest(name=name)
        with rpc_errors():
            await self._stub.StopAgent(
                request, metadata=self._metadata, timeout=STOP_TIMEOUT_S
            )

    async def set_model(self, name: str, model: str, small_model: str) -> None:
        request = pb.UpdateAgentModelRequest(
            name=name, model=model, small_model=small_model
        )
        with rpc_errors():
            await self._stub.UpdateAgentModel(
                request, metadata=self._metadata, timeout=MODEL_TIMEOUT_S
            )

    async def find_run(self, name: str) -> Run | None:
        """The current or last run of an agent here; None when there was none."""
        try:
            with rpc_errors():
                reply = await self._stub.GetRun(
                    pb.GetRunRequest(name=name), metadata=self._metadata
                )
        except ServiceError as error:
            if error.reason is Reason.RUN_NOT_FOUND:
                return None
            raise
        return reply.run

    async def runs(self, town: str) -> list[Run]:
        """All runs of this instance."""
        request = pb.ListRunsRequest(parent=town, page_size=RUNS_PAGE)
        found: list[Run] = []
        for _ in range(RUNS_PAGES_MAX):
            with rpc_errors():
                reply = await self._stub.ListRuns(request, metadata=self._metadata)
            found.extend(reply.runs)
            if not reply.next_page_token:
                break
            request.page_token = reply.next_page_token
        return found

    async def events(self, name: str, after: int) -> list[dict[str, Any]]:
        """The events kept of an agent that came after one, oldest first."""
        request = pb.WatchEventsRequest(parent=name, kept_only=True)
        call = self._stub.WatchEvents(
            request, metadata=self._metadata, timeout=EVENTS_TIMEOUT_S
        )
        found: list[dict[str, Any]] = []
        size_bytes = 0
        try:
            with rpc_errors():
                async for reply in call:
                    if reply.event.sequence <= after:
                        continue
                    size_bytes += reply.ByteSize()
                    if found and size_bytes > EVENTS_BYTES_MAX:
                        break
                    found.append(event_to_json(reply.event))
        finally:
            call.cancel()
        return found
