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
from services.chassis.clock import Clock
from services.chassis.errors import ServiceError
from services.chassis.revocations import RevocationList
from services.registry.agent_feed import DEFAULTS, Limits
from services.registry.issuer import Issuer
from services.registry.policy import POLICY, SERVICE
from services.registry.revocation_feed import RevocationFeed
from services.registry.servicer import RegistryServicer
from tests.fakes.registry_store import MemoryStore
from tests.support.clock import ManualClock
from tests.support.grpc_server import RunningServer, running
from tests.support.tokens import Tokens
from townkeeper.registry.v1 import registry_pb2_grpc


class Registry:
    """A running registry, with its store and the time that it lives in."""

    def __init__(
        self,
        server: RunningServer,
        tokens: Tokens,
        store: MemoryStore,
        feed: RevocationFeed,
    ) -> None:
        self.server = server
        self.tokens = tokens
        self.store = store
        self.feed = feed

    def stub(
        self, token: str | Kind = Kind.CONTAINER
    ) -> registry_pb2_grpc.RegistryServiceAsyncStub:
        """A stub with this token, or with a good one of this kind."""
        if isinstance(token, Kind):
            token = self.tokens.of_kind(token)
        return registry_pb2_grpc.RegistryServiceStub(self.server.channel(token))


@asynccontextmanager
async def serving(
    folder: Path,
    clock: Clock | None = None,
    limits: Limits = DEFAULTS,
    *,
    signs: bool = False,
) -> AsyncIterator[Registry]:
    """On a clock that stands, unless another is given; revocations need the real one,
    by which tokens are minted. Nothing but the calls asks the store for them."""
    tokens = Tokens(folder)
    store = MemoryStore(clock or ManualClock())
    known = RevocationList(followed=True)
    feed = RevocationFeed(store, known)
    await feed.refresh()
    verifier = tokens.verifier(revocations=known)
    issuer = Issuer(tokens.folder if signs else None)
    servicer = RegistryServicer(
        store, verifier.jwks, feed, issuer=issuer, limits=limits
    )

    def add(server: grpc.aio.Server) -> None:
        registry_pb2_grpc.add_RegistryServiceServicer_to_server(servicer, server)

    async with running(add, POLICY, verifier, [SERVICE]) as server:
        yield Registry(server, tokens, store, feed)


async def refused(call: Awaitable[object]) -> ServiceError:
    """How a call failed; fails itself if the call did not."""
    try:
        answer = await call
    except grpc.RpcError as error:
        return ServiceError.from_rpc(error)
    raise AssertionError(f"not refused: {answer}")
