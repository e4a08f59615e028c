"""The registry as the gateway calls it: for one caller, with that caller's token."""

from __future__ import annotations

import uuid
from typing import Final, TypeAlias

from services.chassis.errors import Reason, ServiceError, rpc_errors
from services.gateway.callbacks_client import CallbackCalls
from townkeeper.registry.v1 import registry_pb2 as pb
from townkeeper.registry.v1 import registry_pb2_grpc, resources_pb2

# A page of records with their entries has to fit into one message of 4 MiB.
PAGE_SIZE: Final = 50
# No town is larger; a registry that pages for ever must not hold us for ever.
PAGES_MAX: Final = 1000
Agent: TypeAlias = resources_pb2.Agent

_NOWHERE: Final = frozenset({Reason.INSTANCE_NOT_FOUND, Reason.NO_INSTANCE})


class RegistryClient(CallbackCalls):
    """Every call raises ServiceError. Names are full: `towns/{town}/agents/{agent}`."""

    def __init__(
        self, stub: registry_pb2_grpc.RegistryServiceAsyncStub, token: str
    ) -> None:
        self._stub = stub
        self._metadata = (("authorization", f"Bearer {token}"),)

    async def active_agents(self, town: str) -> list[Agent]:
        """All agents that the town must have, in order."""
        return await self._list(
            pb.ListAgentsRequest(
                parent=town,
                page_size=PAGE_SIZE,
                state=Agent.STATE_ACTIVE,
            )
        )

    async def mayor(self, town: str) -> Agent | None:
        """The town's mayor: the one that must run, else the one changed last."""
        mayors = await self._list(
            pb.ListAgentsRequest(
                parent=town, page_size=PAGE_SIZE, role=resources_pb2.ROLE_MAYOR
            )
        )
        active = Agent.STATE_ACTIVE
        return max(
            mayors,
            key=lambda one: (one.state == active, one.update_time.ToNanoseconds()),
            default=None,
        )

    async def _list(self, request: pb.ListAgentsRequest) -> list[Agent]:
        found: list[Agent] = []
        for _ in range(PAGES_MAX):
            with rpc_errors():
                reply = await self._stub.ListAgents(request, metadata=self._metadata)
            found.extend(reply.agents)
            if not reply.next_page_token:
                break
            request.page_token = reply.next_page_token
        return found

    async def get(self, name: str) -> Agent:
        request = pb.GetAgentRequest(name=name)
        with rpc_errors():
            reply = await self._stub.GetAgent(request, metadata=self._metadata)
        return reply.agent

    async def configure(self, name: str, spec: resources_pb2.AgentSpec) -> None:
        """Stores how to start an agent, without wanting it to run."""
        request = pb.RegisterAgentRequest(
            name=name, spec=spec, configure_only=True, request_id=str(uuid.uuid4())
        )
        with rpc_errors():
            await self._stub.RegisterAgent(request, metadata=self._metadata)

    async def set_model(self, name: str, model: str, small_model: str) -> None:
        """Changes the model of the next start."""
        spec = resources_pb2.AgentSpec(model=model, small_model=small_model)
        paths = ["spec.model", *(["spec.small_model"] if small_model else [])]
        request = pb.UpdateAgentRequest(agent=Agent(name=name, spec=spec))
        request.update_mask.paths.extend(paths)
        with rpc_errors():
            await self._stub.UpdateAgent(request, metadata=self._metadata)

    async def replace(self, town: str, entries: list[str]) -> None:
        """Replaces the list of agents that must run; entries are JSON texts."""
        request = pb.ReplaceAgentsRequest(parent=town, entries_json=entries)
        with rpc_errors():
            await self._stub.ReplaceAgents(request, metadata=self._metadata)

    async def resolve(self, name: str) -> tuple[str, bool]:
        """Address of the instance to call about an agent, and whether it holds it.

        Raises NO_INSTANCE when nobody lives in the town.
        """
        request = pb.ResolveAgentRequest(name=name)
        try:
            with rpc_errors():
                reply = await self._stub.ResolveAgent(request, metadata=self._metadata)
        except ServiceError as error:
            if error.reason not in _NOWHERE:
                raise
            raise ServiceError(
                Reason.NO_INSTANCE,
                "cannot reach the agent: no container of the town is alive; start one",
            ) from error
        return reply.instance.address, reply.holds_lease

    async def instances(self, town: str) -> list[resources_pb2.Instance]:
        """The live instances of a town."""
        request = pb.ListInstancesRequest(parent=town)
        with rpc_errors():
            reply = await self._stub.ListInstances(request, metadata=self._metadata)
        expired = resources_pb2.Instance.STATE_EXPIRED
        return [one for one in reply.instances if one.state != expired]

    async def enqueue(
        self, name: str, text: str, *, message_id: str = "", model: str = ""
    ) -> str:
        """Accepts a message, durably; returns its id.

        Always under an id of ours or the client's: a call repeated by the channel
        must not become two messages.
        """
        request = pb.EnqueueMessageRequest(
            parent=name,
            message_id=message_id or str(uuid.uuid4()),
            text=text,
            model=model,
        )
        with rpc_errors():
            reply = await self._stub.EnqueueMessage(request, metadata=self._metadata)
        return reply.message.name.rpartition("/")[2]

    async def announce_drain(self, town: str, instances: list[str]) -> str:
        """Binds a drain to instances, or to all; returns its nonce."""
        request = pb.AnnounceDrainRequest(parent=town, instances=instances)
        with rpc_errors():
            reply = await self._stub.AnnounceDrain(request, metadata=self._metadata)
        return reply.nonce

    async def confirm_ready(self, town: str, nonce: str) -> bool:
        request = pb.ConfirmReadyRequest(parent=town, nonce=nonce)
        with rpc_errors():
            reply = await self._stub.ConfirmReady(request, metadata=self._metadata)
        return reply.cleared

    async def container_token(self, town: str) -> str:
        """A new token for the town whose container the caller is."""
        request = pb.IssueContainerTokenRequest(parent=town)
        with rpc_errors():
            reply = await self._stub.IssueContainerToken(
                request, metadata=self._metadata
            )
        return reply.token

    async def drain_status(self, town: str) -> tuple[bool, str]:
        request = pb.GetDrainStatusRequest(parent=town)
        with rpc_errors():
            reply = await self._stub.GetDrainStatus(request, metadata=self._metadata)
        return reply.draining, reply.nonce
