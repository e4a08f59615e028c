"""Requests that tests with a real registry send again and again."""

from __future__ import annotations

from typing import Any

import grpc

from services.registry import wire
from tests.support.registry_samples import ADDRESS, BOOT, FIRST, MAYOR, SPEC
from tests.support.tokens import TOWN, Tokens
from townkeeper.registry.v1 import registry_pb2 as pb
from townkeeper.registry.v1 import registry_pb2_grpc

PARENT = f"towns/{TOWN}"
REGISTER = pb.RegisterAgentRequest(
    name=str(MAYOR), spec=wire.spec_to_proto(SPEC, reveal=True)
)
GET = pb.GetAgentRequest(name=str(MAYOR))


def enqueue(message_id: str, text: str = "Hello") -> Any:
    return pb.EnqueueMessageRequest(parent=str(MAYOR), message_id=message_id, text=text)


async def claimed(stub: Any) -> int:
    """Has an instance hold the agent; returns the epoch."""
    await stub.RegisterAgent(REGISTER)
    await stub.RegisterInstance(
        pb.RegisterInstanceRequest(name=str(FIRST), boot_id=BOOT, address=ADDRESS)
    )
    answer = await stub.ClaimAgents(
        pb.ClaimAgentsRequest(instance=str(FIRST), boot_id=BOOT)
    )
    epoch: int = answer.claims[0].agent.lease.epoch
    return epoch


def bare(channel: grpc.aio.Channel, tokens: Tokens) -> tuple[Any, Any]:
    """A stub over gRPC's own channel, which never retries, and the token to send."""
    stub = registry_pb2_grpc.RegistryServiceStub(channel)
    return stub, [("authorization", f"Bearer {tokens.container()}")]
