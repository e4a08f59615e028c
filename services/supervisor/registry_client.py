"""The registry, as the supervisor uses it: values in, values out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

import grpc.aio

from services.chassis.channels import TokenSource, open_channel
from services.chassis.errors import rpc_errors
from services.chassis.names import AgentName
from services.chassis.revocation_client import follow
from services.chassis.revocations import RevocationList
from services.chassis.tls import TlsSettings
from services.supervisor.credential import IssuedToken
from services.supervisor.inbox import InboxMessage, Outcome
from services.supervisor.specs import Claim, Identity
from services.supervisor.wire import claim_from_proto
from townkeeper.registry.v1 import registry_pb2 as pb
from townkeeper.registry.v1 import registry_pb2_grpc, resources_pb2

_OUTCOMES: Final = {
    Outcome.DELIVERED: resources_pb2.Message.STATE_DELIVERED,
    Outcome.INTERRUPTED: resources_pb2.Message.STATE_INTERRUPTED,
}
# A listing page: deliveries are one at a time, so more would only be read twice.
MESSAGES_PAGE: Final = 20


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the supervisor knows of one run, for a heartbeat."""

    agent: AgentName
    epoch: int
    alive: bool
    generation: int
    last_event_at: datetime | None = None
    active_tools: tuple[str, ...] = ()
    failed_starts: int = 0
    last_error: str = ""


@dataclass(frozen=True, slots=True)
class Pulse:
    """What the registry answered to a heartbeat."""

    ttl_s: float
    lost: tuple[AgentName, ...]
    pending: tuple[AgentName, ...]
    claimable: int = 0  # agents without a holder, or handed to us
    living: int = 1  # instances of the town, this one included


class RegistryClient:
    """One supervisor's view of the registry. Every call raises ServiceError."""

    def __init__(
        self,
        address: str,
        token: TokenSource,
        identity: Identity,
        tls: TlsSettings | None = None,
    ) -> None:
        self._identity = identity
        self._channel: grpc.aio.Channel = open_channel(address, token, tls=tls)
        self._stub: registry_pb2_grpc.RegistryServiceAsyncStub = (
            registry_pb2_grpc.RegistryServiceStub(self._channel)
        )

    async def close(self) -> None:
        await self._channel.close()

    async def register_instance(self, address: str, capacity: int = 0) -> float:
        """Says that this boot has the slot; returns the heartbeat interval in s."""
        with rpc_errors():
            reply = await self._stub.RegisterInstance(
                pb.RegisterInstanceRequest(
                    name=self._identity.instance,
                    boot_id=self._identity.boot_id,
                    address=address,
                    capacity=capacity,
                )
            )
        return reply.heartbeat_interval.ToTimedelta().total_seconds()

    async def release_instance(self) -> None:
        with rpc_errors():
            await self._stub.ReleaseInstance(
                pb.ReleaseInstanceRequest(
                    name=self._identity.instance, boot_id=self._identity.boot_id
                )
            )

    async def public_keys(self) -> bytes:
        """The keys that callers' tokens are signed by, as a JSON Web Key Set."""
        town = f"towns/{self._identity.town}"
        with rpc_errors():
            reply = await self._stub.GetPublicKeys(pb.GetPublicKeysRequest(parent=town))
        return reply.jwks_json.encode()

    async def issue_agent_token(
        self, name: AgentName, epoch: int, run: str, life_s: float
    ) -> IssuedToken:
        """A token for a run. Raises LEASE_FENCED when the agent is another's."""
        request = pb.IssueAgentTokenRequest(
            name=str(name),
            epoch=epoch,
            instance=self._identity.instance,
            boot_id=self._identity.boot_id,
            run=run,
        )
        request.ttl.FromTimedelta(timedelta(seconds=life_s))
        with rpc_errors():
            reply = await self._stub.IssueAgentToken(request)
        return IssuedToken(reply.token, reply.expire_time.ToDatetime(UTC))

    async def revoke_run(self, name: AgentName, run: str, expires: datetime) -> None:
        """Makes all tokens of a run worthless; the last expires then."""
        request = pb.RevokeTokensRequest(
            parent=f"towns/{name.town}", runs=[f"{name}/runs/{run}"]
        )
        request.expire_time.FromDatetime(expires)
        with rpc_errors():
            await self._stub.RevokeTokens(request)

    async def follow_revocations(self, known: RevocationList) -> None:
        """Keeps the list of the town's revoked tokens up to date, for ever."""
        await follow(self._channel, f"towns/{self._identity.town}", known)

    async def heartbeat(
        self, runs: Iterable[Evidence], *, leaving: bool = False
    ) -> Pulse:
        """Renews all leases. Raises LEASE_FENCED when another boot has the slot."""
        request = pb.HeartbeatRequest(
            name=self._identity.instance,
            boot_id=self._identity.boot_id,
            runs=[_evidence(run) for run in runs],
            leaving=leaving,
        )
        with rpc_errors():
            reply = await self._stub.Heartbeat(request, timeout=5.0)
        return Pulse(
            ttl_s=reply.ttl.ToTimedelta().total_seconds(),
            lost=tuple(AgentName.parse(name) for name in reply.lost_agents),
            pending=tuple(AgentName.parse(name) for name in reply.pending_agents),
            claimable=reply.claimable_count,
            living=reply.live_instances_count,
        )

    async def register(self, name: AgentName, spec: resources_pb2.AgentSpec) -> None:
        """Records the intent to run an agent, before it is started."""
        with rpc_errors():
            await self._stub.RegisterAgent(
                pb.RegisterAgentRequest(name=str(name), spec=spec)
            )

    async def claim_all(self) -> list[Claim]:
        """Leases of all agents that must run and that nobody holds."""
        claims: dict[AgentName, Claim] = {}
        while True:
            # Each answer holds what this boot has already, and some more.
            more = {claim.name: claim for claim in await self.claim()}
            if more.keys() <= claims.keys():
                return list(claims.values())
            claims |= more

    async def claim(
        self, agents: Iterable[AgentName] = (), *, renew: bool = False
    ) -> list[Claim]:
        """Leases of the named agents, or of some that are claimable; `renew`: those of
        the named that are ours under their next epoch."""
        with rpc_errors():
            reply = await self._stub.ClaimAgents(
                pb.ClaimAgentsRequest(
                    instance=self._identity.instance,
                    boot_id=self._identity.boot_id,
                    agents=[str(name) for name in agents],
                    renew=renew,
                )
            )
        return [claim_from_proto(claim) for claim in reply.claims]

    async def release(
        self,
        name: AgentName,
        epoch: int,
        end_reason: str = "",
        *,
        wait_for_boot: bool = False,
    ) -> None:
        """Gives a lease back; without a reason the agent must run elsewhere, at once or
        when an instance boots."""
        release = pb.LeaseRelease(
            agent=str(name),
            epoch=epoch,
            end_reason=end_reason,
            wait_for_boot=wait_for_boot,
        )
        with rpc_errors():
            await self._stub.ReleaseAgents(
                pb.ReleaseAgentsRequest(
                    instance=self._identity.instance,
                    boot_id=self._identity.boot_id,
                    releases=[release],
                )
            )

    async def pending(self, name: AgentName) -> list[InboxMessage]:
        """The oldest messages that wait for an agent, in order."""
        with rpc_errors():
            reply = await self._stub.ListMessages(
                pb.ListMessagesRequest(
                    parent=str(name),
                    page_size=MESSAGES_PAGE,
                    state=resources_pb2.Message.STATE_PENDING,
                )
            )
        return [
            InboxMessage(one.name.rpartition("/")[2], one.text, one.model)
            for one in reply.messages
        ]

    async def acknowledge(
        self,
        name: AgentName,
        message_id: str,
        *,
        epoch: int,
        generation: int,
        outcome: Outcome,
    ) -> None:
        """Takes a message out of the inbox, on the proof of a durable generation."""
        with rpc_errors():
            await self._stub.AcknowledgeMessage(
                pb.AcknowledgeMessageRequest(
                    name=f"{name}/messages/{message_id}",
                    epoch=epoch,
                    instance=self._identity.instance,
                    boot_id=self._identity.boot_id,
                    generation=generation,
                    outcome=_OUTCOMES[outcome],
                )
            )

    async def watch_messages(self) -> AsyncIterator[AgentName | None]:
        """Agents that have pending messages; None: leases were handed to us, or are on
        offer. Hints, which may repeat."""
        town = f"towns/{self._identity.town}"
        call = self._stub.WatchMessages(pb.WatchMessagesRequest(parent=town))
        with rpc_errors():
            async for hint in call:
                if hint.agent:
                    yield AgentName.parse(hint.agent)
                elif hint.claimable or hint.instance == self._identity.instance:
                    yield None


def _evidence(run: Evidence) -> pb.RunEvidence:
    evidence = pb.RunEvidence(
        agent=str(run.agent),
        epoch=run.epoch,
        alive=run.alive,
        generation=run.generation,
        active_tools=run.active_tools[:32],
        failed_starts_count=run.failed_starts,
        last_error=run.last_error[:1024],
    )
    if run.last_event_at is not None:
        evidence.last_event_time.FromDatetime(run.last_event_at)
    return evidence
