"""What happens around every call, in one order: context and log → errors → auth.

One interceptor does all three, for all four shapes of a method. It reads and writes
bytes itself, so that a caller is refused before its message is decoded. Handlers read
requests from the iterator that they are given.
"""

from __future__ import annotations

import asyncio
import inspect
import re
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from functools import cache
from typing import Any, Final, TypeAlias

import grpc
import structlog
from grpc_status import rpc_status
from prometheus_client import Counter, Histogram

from services.chassis import audit
from services.chassis.access import authorize_kind
from services.chassis.auth import (
    OPEN,
    Rule,
    Verifier,
    authorize_names,
    current_caller,
    token_expired,
)
from services.chassis.call import Call, Context, Requests, decoded, encoded, pump
from services.chassis.errors import DOMAIN, Reason, ServiceError, to_status
from services.chassis.gate import Gate
from services.chassis.resources import resource_names
from services.chassis.telemetry import (
    CALL_BYTES,
    CALL_SECONDS,
    CALLS,
    REQUEST_ID_KEY,
    Event,
)

# Quoted: only the type stubs of gRPC know that these are generic.
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Work: TypeAlias = Callable[[Call], Awaitable[Any]]

_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,128}", re.ASCII)
_BEARER: Final = re.compile(r"bearer +(\S+) *", re.IGNORECASE)

_log = structlog.get_logger(__name__)


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps each method once, on its first call."""

    def __init__(
        self, policy: Mapping[str, Rule], verifier: Verifier, gate: Gate
    ) -> None:
        self._policy = policy
        self._verifier = verifier
        self._gate = gate
        self._wrapped: dict[str, Handler] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        method = str(handler_call_details.method)
        if method not in self._wrapped:
            handler = await continuation(handler_call_details)
            if handler is None:
                return None
            self._wrapped[method] = self._wrap(method, handler)
        return self._wrapped[method]

    def _wrap(self, method: str, handler: Handler) -> Handler:
        make, inner = _shape(handler)
        if not _asynchronous(inner):
            raise TypeError(f"cannot serve {method}: make its handler async")
        decode, encode = handler.request_deserializer, handler.response_serializer
        streams_out = handler.response_streaming
        # A handler that writes by itself keeps gRPC's own encoding.
        writes_itself = streams_out and not inspect.isasyncgenfunction(inner)

        async def answer(given: Any, context: Context) -> Any:
            async def work(call: Call) -> Any:
                request = await self._request(call, handler, decode, given, context)
                if writes_itself:
                    return await inner(request, context)
                if streams_out:
                    verifier, responses = self._verifier, inner(request, context)
                    check = verifier.check_revoked
                    if call.rule.watch:
                        check = verifier.check_good
                    return await pump(call, responses, encode, context, check)
                return encoded(call, encode, await inner(request, context))

            return await self._in_context(method, context, work)

        return make(answer, None, encode if writes_itself else None)

    async def _request(
        self, call: Call, handler: Handler, decode: Any, given: Any, context: Context
    ) -> Any:
        """The request, or the iterator of requests, once the caller may send it."""
        if not handler.request_streaming:
            request = decoded(call, decode, given)
            self._authorize(call, request)
            return request
        requests = Requests(call, decode, context)
        if not call.rule.open:
            self._authorize(call, await requests.peek())
        return requests

    async def _in_context(self, method: str, context: Context, work: Work) -> Any:
        """Context and log: binds the request id, logs one line when all is over."""
        request_id = _request_id(context)
        rule = self._policy.get(method)
        call = Call(method, rule or Rule(frozenset()), time.monotonic(), request_id)
        structlog.contextvars.bind_contextvars(request_id=request_id)
        if rule is None:
            _log.error(Event.POLICY_ROW_MISSING, method=method)
        counted = rule is not OPEN
        try:
            return await self._with_errors(call, context, work, counted)
        finally:
            _report(call)
            if not call.rule.open and audit.changes(call.method):
                outcome = call.reason or call.code
                audit.record(call.caller, call.method, call.resources, outcome)

    async def _with_errors(
        self, call: Call, context: Context, work: Work, counted: bool
    ) -> Any:
        """Errors: whatever is raised becomes one status."""
        entered = False
        try:
            if counted:
                self._gate.enter()
                entered = True
            return await self._with_auth(call, context, work)
        except ServiceError as error:
            failure = error
        except TimeoutError:
            failure = ServiceError(
                Reason.DEADLINE, "cannot finish in time: try again, with a longer limit"
            )
        except (asyncio.CancelledError, grpc.aio.InternalError):
            # Cut: seen as a cancellation, or as an answer that could not be sent any
            # more. gRPC takes both the same way, so neither is a crash.
            call.code = "CANCELLED"
            raise
        except grpc.aio.AbortError:
            call.code = _aborted_with(context)
            raise
        except Exception:
            _log.exception(Event.CALL_CRASHED, method=call.method)
            failure = ServiceError(
                Reason.INTERNAL,
                "cannot go on after an internal error: report the request id",
                request_id=call.request_id,
            )
        finally:
            if entered:
                self._gate.leave()
        call.code, call.reason = failure.code.name, failure.reason.value
        status = to_status(failure, _domain(call.method))
        return await context.abort_with_status(rpc_status.to_status(status))

    async def _with_auth(self, call: Call, context: Context, work: Work) -> Any:
        """Auth: who calls, and whether the method is for them at all."""
        if not call.rule.open:
            call.caller = await self._verifier.verify(
                _bearer(context), grace_s=call.rule.grace_s
            )
            authorize_kind(call.caller, call.rule)
            current_caller.set(call.caller)
        if call.rule.watch:
            return await self._gate.until_closed(self._while_good(call, work))
        return await work(call)

    async def _while_good(self, call: Call, work: Work) -> Any:
        """A watch, which may say nothing for long, until its caller's token expires."""
        if call.caller is None:
            return await work(call)
        try:
            async with asyncio.timeout(self._verifier.left_s(call.caller)) as limit:
                return await work(call)
        except TimeoutError:
            if not limit.expired():
                raise
            raise token_expired(call.caller) from None

    def _authorize(self, call: Call, request: Any) -> None:
        if call.caller is not None:
            call.resources = tuple(resource_names(request))
            authorize_names(call.caller, call.rule, call.resources)


def _shape(handler: Handler) -> tuple[Callable[..., Handler], Any]:
    match handler.request_streaming, handler.response_streaming:
        case False, False:
            return grpc.unary_unary_rpc_method_handler, handler.unary_unary
        case False, True:
            return grpc.unary_stream_rpc_method_handler, handler.unary_stream
        case True, False:
            return grpc.stream_unary_rpc_method_handler, handler.stream_unary
        case _:
            return grpc.stream_stream_rpc_method_handler, handler.stream_stream


def _asynchronous(inner: Any) -> bool:
    return inspect.iscoroutinefunction(inner) or inspect.isasyncgenfunction(inner)


def _request_id(context: Context) -> str:
    given = _metadata(context, REQUEST_ID_KEY)
    return given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


def _bearer(context: Context) -> str:
    found = _BEARER.fullmatch(_metadata(context, "authorization"))
    return found[1] if found else ""


def _metadata(context: Context, wanted: str) -> str:
    for key, value in context.invocation_metadata() or ():
        if key == wanted and isinstance(value, str):
            return value
    return ""


def _aborted_with(context: Context) -> str:
    code = context.code()
    if isinstance(code, grpc.StatusCode):
        return code.name
    known = {status.value[0]: status.name for status in grpc.StatusCode}
    return known.get(code, "UNKNOWN")


def _domain(method: str) -> str:
    # "/townkeeper.registry.v1.RegistryService/GetAgent" → "registry.townkeeper"
    match method.strip("/").split("."):
        case [root, service, *_] if root == DOMAIN:
            return f"{service}.{DOMAIN}"
    return DOMAIN


def _report(call: Call) -> None:
    seconds = time.monotonic() - call.started_at
    _counter(call.method, call.code).inc()
    timer, received, sent = _meters(call.method)
    timer.observe(seconds)
    received.inc(call.received_bytes)
    sent.inc(call.sent_bytes)
    # Probes come every few seconds for ever.
    write = _log.debug if call.rule.open else _log.info
    write(
        Event.CALL_ENDED,
        method=call.method,
        code=call.code,
        reason=call.reason,
        caller_kind=call.caller.kind.value if call.caller else "",
        towns=sorted(call.caller.towns) if call.caller else [],
        seconds=round(seconds, 6),
        received_bytes=call.received_bytes,
        sent_bytes=call.sent_bytes,
    )


# Looking a labelled metric up takes longer than counting with it. Both caches are
# bounded by the methods that the server has.
@cache
def _counter(method: str, code: str) -> Counter:
    return CALLS.labels(method, code)


@cache
def _meters(method: str) -> tuple[Histogram, Counter, Counter]:
    return (
        CALL_SECONDS.labels(method),
        CALL_BYTES.labels(method, "received"),
        CALL_BYTES.labels(method, "sent"),
    )
