"""One call while it is answered: its messages as bytes, and what its log says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import grpc
from google.protobuf.message import DecodeError

from services.chassis.auth import Caller, Rule
from services.chassis.errors import Reason, ServiceError

# Quoted: only the type stubs of gRPC know that it is generic.
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

# Long enough for a client on a slow line, short enough not to hold a place for ever.
FIRST_FRAME_S: Final = 30.0
# For the client of a watch to take the message that is on its way when we stop.
WRITE_END_S: Final = 1.0


@dataclass(slots=True)
class Call:
    """One call while it is answered: what its log line will say."""

    method: str
    rule: Rule
    started_at: float
    request_id: str
    code: str = "OK"
    reason: str = ""
    caller: Caller | None = None
    # What the request is about, once it was read.
    resources: tuple[str, ...] = ()
    received_bytes: int = 0
    sent_bytes: int = 0


class Requests(AsyncIterator[Any]):
    """The requests of a stream, the first of which may be looked at beforehand.

    gRPC's own iterator keeps each message until the next has come: with a hundred
    streams, a hundred of the largest.
    """

    def __init__(self, call: Call, decode: Any, context: Context) -> None:
        self._call = call
        self._decode = decode
        self._context = context
        self._peeked: list[Any] = []

    async def peek(self) -> Any:
        try:
            async with asyncio.timeout(FIRST_FRAME_S):
                first = await self._next()
        except StopAsyncIteration:
            raise ServiceError(
                Reason.FRAME_ORDER,
                "cannot take a stream without frames: send the header first",
            ) from None
        self._peeked.append(first)
        return first

    async def __anext__(self) -> Any:
        return self._peeked.pop() if self._peeked else await self._next()

    async def _next(self) -> Any:
        raw = await self._context.read()
        if raw is grpc.aio.EOF:
            raise StopAsyncIteration
        return decoded(self._call, self._decode, raw)


async def pump(
    call: Call,
    responses: Any,
    encode: Any,
    context: Context,
    check: Callable[[Caller], None],
) -> None:
    """Writes all responses; `check` raises once the caller may have no more."""
    # Closed here and now, whatever ends the call: left to the garbage collector, a
    # generator of a cut call would hold its files and locks for a while.
    async with aclosing(responses):
        async for response in responses:
            raw = encoded(call, encode, response)
            del response  # else both are in memory for as long as the client is slow
            if call.rule.watch:
                await _write_whole(context, raw)
            else:
                await context.write(raw)
            # Afterwards: who follows what is revoked must hear of itself.
            if call.caller is not None:
                check(call.caller)


async def _write_whole(context: Context, raw: bytes) -> None:
    """A write that a stop does not cut: as long as one is under way, gRPC takes no
    status, and the watcher would not be told why it ends."""
    writing = asyncio.ensure_future(context.write(raw))
    try:
        await asyncio.shield(writing)
    finally:
        if not writing.done():
            await asyncio.wait({writing}, timeout=WRITE_END_S)
            writing.cancel()


def decoded(call: Call, decode: Any, raw: bytes) -> Any:
    call.received_bytes += len(raw)
    try:
        return decode(raw)
    except DecodeError as error:
        raise ServiceError(
            Reason.FIELD_INVALID,
            "cannot decode the request: build it from the service's own proto",
        ) from error


def encoded(call: Call, encode: Any, response: Any) -> bytes:
    raw: bytes = encode(response)
    call.sent_bytes += len(raw)
    return raw
