"""What a client hears of a stream that the server ends before the client does."""

from __future__ import annotations

import asyncio
import functools
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from services.chassis.auth import Kind, rule
from services.chassis.channels import open_channel
from services.chassis.errors import Reason, ServiceError, rpc_errors
from tests.support.grpc_server import running
from tests.support.tokens import Tokens
from townkeeper.snapshots.v1 import snapshots_pb2 as pb
from townkeeper.snapshots.v1 import snapshots_pb2_grpc

SERVICE = pb.DESCRIPTOR.services_by_name["SnapshotService"].full_name
POLICY = {f"/{SERVICE}/UploadSnapshot": rule(Kind.CONTAINER)}
NAME = "towns/town-1/agents/one"
# Unmended, three in a hundred went wrong.
ROUNDS = 200


class Refusing(snapshots_pb2_grpc.SnapshotServiceServicer):
    """Looks at the header only."""

    async def UploadSnapshot(self, requests: Any, context: Any) -> Any:
        await anext(requests)
        raise ServiceError(Reason.LEASE_FENCED, "cannot write", epoch=3)


async def frames(size_bytes: int) -> AsyncIterator[pb.UploadSnapshotRequest]:
    yield pb.UploadSnapshotRequest(header=pb.UploadHeader(parent=NAME))
    for _ in range(20):
        yield pb.UploadSnapshotRequest(chunk=pb.Chunk(data=bytes(size_bytes)))


async def by_iterator(stub: Any, size_bytes: int) -> Any:
    return await stub.UploadSnapshot(frames(size_bytes))


async def by_writing(stub: Any, size_bytes: int) -> Any:
    call = stub.UploadSnapshot()
    try:
        async for frame in frames(size_bytes):
            await call.write(frame)
    except asyncio.InvalidStateError:
        pass  # the call is over: its answer says why
    return await call


@pytest.mark.parametrize("send", [by_iterator, by_writing])
async def test_a_refusal_arrives_whenever_it_comes(tmp_path: Path, send: Any):
    """However far the client was with sending, it hears the server's reason."""
    tokens, heard = Tokens(tmp_path), Counter[Reason]()
    add = functools.partial(
        snapshots_pb2_grpc.add_SnapshotServiceServicer_to_server,
        Refusing(),  # type: ignore[abstract]
    )

    async with running(add, POLICY, tokens, [SERVICE]) as server:
        stub = snapshots_pb2_grpc.SnapshotServiceStub(
            server.channel(tokens.container())
        )
        for number in range(ROUNDS):
            with pytest.raises(ServiceError) as refused, rpc_errors():
                await send(stub, 1024 if number % 2 else 1024 * 1024)
            heard[refused.value.reason] += 1

    assert {Reason.LEASE_FENCED: ROUNDS} == dict(heard)


async def test_a_stream_to_nobody_still_ends():
    """Without any status from a server, gRPC's own is told, and soon."""
    channel = open_channel("127.0.0.1:1")
    async with channel, asyncio.timeout(10):
        stub = snapshots_pb2_grpc.SnapshotServiceStub(channel)
        with pytest.raises(ServiceError) as failed, rpc_errors():
            await by_iterator(stub, 1024)

    assert Reason.SERVICE_UNAVAILABLE is failed.value.reason
