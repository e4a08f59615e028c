"""A servicer behind the real interceptors, on a real port.

async with running(add, policy, tokens, [service]) as server:
    stub = Stub(server.channel(tokens.container()))
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc

from services.chassis.auth import Rule, Verifier
from services.chassis.channels import StaticToken, open_channel
from services.chassis.server import Server
from tests.support.tokens import Tokens


class RunningServer:
    """The server, its address, and channels to it that close with it."""

    def __init__(self, server: Server, port: int, stack: AsyncExitStack) -> None:
        self.server = server
        self.address = f"127.0.0.1:{port}"
        self._stack = stack

    def channel(self, token: str | None = None, **options: Any) -> grpc.aio.Channel:
        """A channel of ours that sends this token, or none."""
        source = StaticToken(token) if token is not None else None
        channel = open_channel(self.address, source, **options)
        self._stack.push_async_callback(channel.close)
        return channel

    def bare_channel(self, **options: Any) -> grpc.aio.Channel:
        """gRPC's own channel: no token, no retry, no deadline."""
        channel = grpc.aio.insecure_channel(self.address, **options)
        self._stack.push_async_callback(channel.close)
        return channel


@asynccontextmanager
async def running(
    add: Callable[[grpc.aio.Server], Any],
    policy: Mapping[str, Rule],
    tokens: Tokens | Verifier,
    service_names: Sequence[str] = (),
    address: str = "127.0.0.1:0",
    **options: Any,
) -> AsyncIterator[RunningServer]:
    """Serves until the block ends; `add` puts the servicers in."""
    verifier = tokens.verifier() if isinstance(tokens, Tokens) else tokens
    async with AsyncExitStack() as stack:
        server = Server(address, policy, verifier, service_names, **options)
        add(server.grpc)
        port = await server.start()
        try:
            yield RunningServer(server, port, stack)
        finally:
            await stack.aclose()
            await server.stop(grace_s=1.0)
