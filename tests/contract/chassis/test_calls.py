"""What happens around a handler, for every shape of method, over a real port."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from structlog.testing import capture_logs

from services.chassis import call as call_module
from services.chassis.auth import Kind, current_caller, rule
from services.chassis.errors import Reason, ServiceError, rpc_errors
from tests.support.grpc_server import RunningServer, running
from tests.support.shapes import (
    REQUEST_STREAMS,
    SHAPES,
    Shapes,
    about,
    ask,
    method,
    policy,
    stub,
)
from tests.support.tokens import Tokens
from tests.support.waiting import wait_until

each_shape = pytest.mark.parametrize("shape", SHAPES)

INNER_TEXT = "the inner text that nobody outside may read"


async def refusal(
    channel: grpc.aio.Channel, shape: str, *requests: Any
) -> ServiceError:
    with pytest.raises(ServiceError) as refused, rpc_errors():
        await ask(channel, shape, *requests)
    return refused.value


@each_shape
class TestPassing:
    async def test_the_handler_gets_what_was_sent(
        self, shape: str, channel: grpc.aio.Channel, shapes: Shapes
    ) -> None:
        """The first request, which auth looks at, is not lost on the way."""
        sent = [about(), about()] if shape in REQUEST_STREAMS else [about()]

        answers = await ask(channel, shape, *sent)

        assert shapes.requests == sent
        assert answers[-1] == sent[-1]

    async def test_the_handler_knows_its_caller(
        self, shape: str, channel: grpc.aio.Channel, shapes: Shapes
    ) -> None:
        """Whoever was verified is there for the handler to ask."""
        seen = []

        async def look(_: Any) -> None:
            seen.append(current_caller.get().kind)

        shapes.behave = look

        await ask(channel, shape)

        assert seen == [Kind.CONTAINER]

    async def test_an_abort_of_the_handlers_own_stands(
        self, shape: str, channel: grpc.aio.Channel, shapes: Shapes
    ) -> None:
        """gRPC's own way to fail a call works as ever."""

        async def abort(context: Any) -> None:
            await context.abort(grpc.StatusCode.DATA_LOSS, "its own words")

        shapes.behave = abort

        with capture_logs() as lines:
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await ask(channel, shape)
            line = await wait_until(lambda: _ended(lines))

        assert failed.value.code() is grpc.StatusCode.DATA_LOSS
        assert failed.value.details() == "its own words"
        assert line["code"] == "DATA_LOSS"


@each_shape
class TestErrors:
    async def test_a_service_error_arrives_whole(
        self, shape: str, channel: grpc.aio.Channel, shapes: Shapes
    ) -> None:
        """Code, reason, text, metadata and domain all reach a standard client."""

        async def refuse(_: Any) -> None:
            raise ServiceError(Reason.LEASE_FENCED, "cannot save: stop", epoch=7)

        shapes.behave = refuse

        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await ask(channel, shape)

        status = rpc_status.from_call(failed.value)
        info = error_details_pb2.ErrorInfo()
        status.details[0].Unpack(info)
        assert failed.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert failed.value.details() == "cannot save: stop"
        assert (info.reason, info.domain) == ("LEASE_FENCED", "shapes.townkeeper")
        assert dict(info.metadata) == {"epoch": "7"}

    async def test_an_unexpected_error_tells_nothing(
        self, shape: str, channel: grpc.aio.Channel, shapes: Shapes
    ) -> None:
        """The caller gets a request id; the log has the rest under it."""

        async def crash(_: Any) -> None:
            raise RuntimeError(INNER_TEXT)

        shapes.behave = crash

        with capture_logs() as lines:
            error = await refusal(channel, shape)
            line = await wait_until(lambda: _ended(lines))

        assert error.reason is Reason.INTERNAL
        assert INNER_TEXT not in str(error)
        assert error.metadata.keys() == {"request_id"}
        assert line["code"] == "INTERNAL"
        assert [crash["exc_info"] for crash in _named("call.crashed", lines)] == [True]

    async def test_a_timeout_is_the_deadline(
        self, shape: str, channel: grpc.aio.Channel, shapes: Shapes
    ) -> None:
        """Work that ran into its limit says so."""

        async def dawdle(_: Any) -> None:
            async with asyncio.timeout(0):
                await asyncio.Event().wait()

        shapes.behave = dawdle

        error = await refusal(channel, shape)

        assert error.reason is Reason.DEADLINE

    async def test_garbage_is_the_callers_fault(
        self, shape: str, channel: grpc.aio.Channel, shapes: Shapes
    ) -> None:
        """Bytes that are no message are INVALID_ARGUMENT, and nothing runs."""
        error = await refusal(channel, shape, b"\xff\xff\xff")

        assert error.reason is Reason.FIELD_INVALID
        assert shapes.calls == 0

    async def test_a_cut_call_is_cleaned_up_at_once(
        self, shape: str, server: RunningServer, tokens: Tokens, shapes: Shapes
    ) -> None:
        """When the caller goes, the handler's `finally` runs and nobody is blamed."""
        began, cleaned = asyncio.Event(), asyncio.Event()

        async def linger(_: Any) -> None:
            began.set()
            try:
                await asyncio.Event().wait()
            finally:
                cleaned.set()

        shapes.behave = linger
        asking = asyncio.create_task(ask(server.channel(tokens.container()), shape))
        await began.wait()

        with capture_logs() as lines:
            asking.cancel()
            await asyncio.wait_for(cleaned.wait(), 5)
            line = await wait_until(lambda: _ended(lines))

        assert line["code"] == "CANCELLED"
        assert _named("call.crashed", lines) == []
        assert server.server.in_flight == 0


async def test_an_answer_that_cannot_be_sent_is_no_crash(
    server: RunningServer, tokens: Tokens, shapes: Shapes
) -> None:
    """A caller that left between two answers is a cut call, not a defect of ours."""

    async def fail_to_write(_: Any) -> None:
        raise grpc.aio.InternalError("failed to execute batch")

    shapes.behave = fail_to_write

    with capture_logs() as lines:
        with pytest.raises(grpc.aio.AioRpcError):
            await ask(server.channel(tokens.container()), "unary_stream")
        line = await wait_until(lambda: _ended(lines))

    assert line["code"] == "CANCELLED"
    assert _named("call.crashed", lines) == []


async def test_a_generator_ends_with_its_call(
    server: RunningServer, tokens: Tokens, shapes: Shapes
) -> None:
    """Cut while its answers wait to be sent, it is closed before the call is over."""
    order: list[str] = []

    async def flood(request: Any, context: Any) -> AsyncGenerator[Any, None]:
        try:
            while True:
                # More than the flow control lets through to one who does not read.
                yield big
        finally:
            order.append("closed")

    big = about()
    big.chunk.data = bytes(1 << 20)
    shapes.flood = flood
    call = stub(server.channel(tokens.container()), "unary_stream")(about())
    await call.read()

    with capture_logs(processors=[_note(order)]):
        call.cancel()
        await wait_until(lambda: "call.ended" in order)

    assert order[:2] == ["closed", "call.ended"]


def _note(order: list[str]) -> Any:
    def note(_: Any, __: str, event: Any) -> Any:
        order.append(str(event["event"]))
        return event

    return note


@each_shape
class TestRefusals:
    async def test_a_method_without_a_row_is_closed(
        self, shape: str, shapes: Shapes, tokens: Tokens
    ) -> None:
        """What nobody thought of is open to nobody, and the log says what to add."""
        async with running(shapes.add_to, {}, tokens) as server:
            with capture_logs() as lines:
                error = await refusal(server.channel(tokens.operator()), shape)

        assert error.reason is Reason.ROLE_INSUFFICIENT
        assert shapes.calls == 0
        missing = _named("policy.row_missing", lines)
        assert [line["method"] for line in missing] == [method(shape)]

    async def test_a_kind_that_the_row_leaves_out_is_refused(
        self, shape: str, shapes: Shapes, tokens: Tokens
    ) -> None:
        """A credential of the right town and the wrong kind gets nowhere."""
        rows = policy(rule(Kind.OPERATOR))
        async with running(shapes.add_to, rows, tokens) as server:
            error = await refusal(server.channel(tokens.container()), shape)

        assert error.reason is Reason.ROLE_INSUFFICIENT
        assert shapes.calls == 0

    async def test_the_wrong_kind_is_refused_unread(
        self, shape: str, shapes: Shapes, tokens: Tokens
    ) -> None:
        """Nothing is decoded for a credential that may not call the method."""
        rows = policy(rule(Kind.OPERATOR))
        async with running(shapes.add_to, rows, tokens) as server:
            error = await refusal(server.channel(tokens.container()), shape, b"\xff")

        assert error.reason is Reason.ROLE_INSUFFICIENT

    async def test_a_request_about_nothing_is_refused(
        self, shape: str, channel: grpc.aio.Channel, shapes: Shapes
    ) -> None:
        """A request that names no resource cannot be authorized, so it is not."""
        error = await refusal(channel, shape, type(about())())

        assert error.reason is Reason.FIELD_REQUIRED
        assert shapes.calls == 0

    async def test_a_malformed_name_is_refused(
        self, shape: str, channel: grpc.aio.Channel, shapes: Shapes
    ) -> None:
        """A name that climbs out of its town is no name."""
        error = await refusal(channel, shape, about(agent=".."))

        assert error.reason is Reason.NAME_MALFORMED
        assert shapes.calls == 0

    async def test_a_flood_is_refused(
        self, shape: str, shapes: Shapes, tokens: Tokens
    ) -> None:
        """One call more than the server takes is refused, and the others go on."""
        entered, leave = asyncio.Event(), asyncio.Event()

        async def hold(_: Any) -> None:
            entered.set()
            await leave.wait()

        shapes.behave = hold
        async with running(shapes.add_to, policy(), tokens, calls_max=1) as server:
            channel = server.channel(tokens.container())
            first = asyncio.create_task(ask(channel, shape))
            await entered.wait()

            error = await refusal(channel, shape)
            leave.set()

            assert error.reason is Reason.TOO_MANY_CALLS
            assert await first == [about()]


@pytest.mark.parametrize("shape", REQUEST_STREAMS)
class TestFirstFrame:
    async def test_an_empty_stream_is_out_of_order(
        self, shape: str, channel: grpc.aio.Channel, shapes: Shapes
    ) -> None:
        """A stream that ends before its header names nothing to authorize."""
        call = stub(channel, shape)(_no_frames())

        with pytest.raises(ServiceError) as refused, rpc_errors():
            await _finish(call, shape)

        assert refused.value.reason is Reason.FRAME_ORDER
        assert shapes.calls == 0

    async def test_a_silent_stream_is_not_waited_for(
        self,
        shape: str,
        channel: grpc.aio.Channel,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """A caller that opens a stream and says nothing does not hold its place."""
        monkeypatch.setattr(call_module, "FIRST_FRAME_S", 0.05)
        call = stub(channel, shape)(_never())

        with pytest.raises(ServiceError) as refused, rpc_errors():
            await _finish(call, shape)

        assert refused.value.reason is Reason.DEADLINE


async def _finish(call: Any, shape: str) -> None:
    if shape == "stream_unary":
        await call
    else:
        async for _ in call:
            pass


async def _no_frames() -> AsyncIterator[Any]:
    return
    yield


async def _never() -> AsyncIterator[Any]:
    await asyncio.Event().wait()
    yield


def _named(event: str, lines: list[Any]) -> list[Any]:
    return [line for line in lines if line["event"] == event]


def _ended(lines: list[Any]) -> Any:
    # Written after the answer has left, so a test has to wait for it.
    ended = _named("call.ended", lines)
    return ended[0] if ended else None
