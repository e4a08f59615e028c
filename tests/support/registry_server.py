"""The registry's servicer over a store in memory, behind a real port.

async with serving(tmp_path) as registry:
    stub = registry.stub()
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path

import grpc

from services.chassis.auth import Kind
from services.chassis.errors import ServiceError
from services.registry.policy import POLICY, SERVICE
from services.registry.servicer import RegistryServicer
from tests.fakes.registry_store import MemoryStore
from tests.support.clock import ManualClock
from tests.support.grpc_server import RunningServer, running
from tests.support.tokens import Tokens
from townkeeper.registry.v1 import registry_pb2_grpc


class Registry:
    """A running registry, with its store and the time that it lives in."""

    def __init__(
        self, server: RunningServer, tokens: Tokens, store: MemoryStore
    ) -> None:
        self.server = server
        self.tokens = tokens
        self.store = store

    def stub(
        self, token: str | Kind = Kind.CONTAINER
    ) -> registry_pb2_grpc.RegistryServiceAsyncStub:
        """A stub with this token, or with a good one of this kind."""
        if isinstance(token, Kind):
            token = self.tokens.of_kind(token)
        return registry_pb2_grpc.RegistryServiceStub(self.server.channel(token))


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[Registry]:
    tokens = Tokens(folder)
    store = MemoryStore(ManualClock())
    servicer = RegistryServicer(store, tokens.verifier().jwks)

    def add(server: grpc.aio.Server) -> None:
        registry_pb2_grpc.add_RegistryServiceServicer_to_server(servicer, server)

    async with running(add, POLICY, tokens, [SERVICE]) as server:
        yield Registry(server, tokens, store)


async def refused(call: Awaitable[object]) -> ServiceError:
    """How a call failed; fails itself if the call did not."""
    try:
        answer = await call
    except grpc.RpcError as error:
        return ServiceError.from_rpc(error)
    raise AssertionError(f"not refused: {answer}")
