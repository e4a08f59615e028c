"""A made-up service with one method of each shape, to try what lies around handlers.

Requests and responses are `UploadSnapshotRequest`, whose header names an agent.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any

import grpc

from services.chassis.auth import Kind, Rule, rule
from tests.support.tokens import AGENT, TOWN
from townkeeper.snapshots.v1.snapshots_pb2 import UploadHeader, UploadSnapshotRequest

SERVICE = "townkeeper.shapes.v1.ShapesService"
SHAPES = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
RESPONSE_STREAMS = ("unary_stream", "stream_stream")
REQUEST_STREAMS = ("stream_unary", "stream_stream")


async def _nothing(context: Any) -> None:
    """What a handler does unless a test says otherwise."""


class Shapes:
    """Every handler awaits `behave(context)`, then sends back what it was sent."""

    def __init__(self, behave: Callable[[Any], Awaitable[None]] = _nothing) -> None:
        self.behave = behave
        # Takes the place of the handler `unary_stream` when a test sets it.
        self.flood: Callable[..., AsyncGenerator[Any, None]] | None = None
        self.calls = 0
        self.requests: list[UploadSnapshotRequest] = []

    async def unary_unary(self, request: Any, context: Any) -> Any:
        await self._begin(context)
        return self._kept(request)

    async def unary_stream(self, request: Any, context: Any) -> AsyncIterator[Any]:
        await self._begin(context)
        if self.flood is None:
            yield self._kept(request)
            return
        async with aclosing(self.flood(request, context)) as responses:
            async for response in responses:
                yield response

    async def stream_unary(self, requests: Any, context: Any) -> Any:
        await self._begin(context)
        async for request in requests:
            self._kept(request)
        return self.requests[-1]

    async def stream_stream(self, requests: Any, context: Any) -> AsyncIterator[Any]:
        await self._begin(context)
        async for request in requests:
            yield self._kept(request)

    async def _begin(self, context: Any) -> None:
        self.calls += 1
        await self.behave(context)

    def _kept(self, request: Any) -> Any:
        self.requests.append(request)
        return request

    def add_to(self, server: grpc.aio.Server) -> None:
        handlers = {
            shape: getattr(grpc, f"{shape}_rpc_method_handler")(
                getattr(self, shape),
                UploadSnapshotRequest.FromString,
                UploadSnapshotRequest.SerializeToString,
            )
            for shape in SHAPES
        }
        server.add_generic_rpc_handlers(
            [grpc.method_handlers_generic_handler(SERVICE, handlers)]
        )


def policy(row: Rule | None = None) -> Mapping[str, Rule]:
    """The same row for all shapes; for everybody unless told otherwise."""
    return {method(shape): row or rule(*Kind) for shape in SHAPES}


def method(shape: str) -> str:
    return f"/{SERVICE}/{shape}"


def about(agent: str = AGENT, town: str = TOWN) -> UploadSnapshotRequest:
    """A request that names an agent."""
    header = UploadHeader(parent=f"towns/{town}/agents/{agent}")
    return UploadSnapshotRequest(header=header)


async def ask(
    channel: grpc.aio.Channel, shape: str, *requests: Any, **options: Any
) -> list[UploadSnapshotRequest]:
    """Calls the method of this shape; all its responses. No requests: about()."""
    call = stub(channel, shape)
    sent = list(requests) or [about()]
    given = _each(sent) if shape in REQUEST_STREAMS else sent[0]
    if shape in RESPONSE_STREAMS:
        return [response async for response in call(given, **options)]
    return [await call(given, **options)]


def stub(channel: Any, shape: str) -> Any:
    """The method of this shape; raw bytes pass as they are."""
    return getattr(channel, shape)(
        method(shape),
        request_serializer=_encode,
        response_deserializer=UploadSnapshotRequest.FromString,
    )


def _encode(request: Any) -> bytes:
    raw: bytes = request if isinstance(request, bytes) else request.SerializeToString()
    return raw


async def _each(requests: list[Any]) -> AsyncIterator[Any]:
    for request in requests:
        yield request
