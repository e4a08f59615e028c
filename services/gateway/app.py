"""The ASGI application: request → route → credential → handler → response → log line.

Whatever happens, the client gets one answer with an `x-request-id`, and the log one
line without bodies and tokens.
"""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from collections.abc import Awaitable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Final, TypeVar

import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import Message, Receive, Scope, Send

from services.chassis import audit
from services.chassis.auth import Kind, Verifier, authorize
from services.chassis.errors import Reason, ServiceError
from services.chassis.names import check_id
from services.chassis.telemetry import (
    HTTP_BYTES,
    HTTP_REQUEST_SECONDS,
    HTTP_REQUESTS,
    HTTP_REQUESTS_IN_FLIGHT,
    Event,
)
from services.gateway.exchange import Calls, Exchange, Report, Style
from services.gateway.problems import (
    CLIENT_GONE,
    INTERNAL_TEXT,
    NOT_FOUND,
    REASON_HEADER,
    RIG_TEXT,
    Problem,
    from_service,
    renewal_problem,
)
from services.gateway.route import Body, Route, decode_ids
from services.gateway.routes import find
from services.gateway.streaming import gone

T = TypeVar("T")

REQUEST_ID_HEADER: Final = "x-request-id"
# What waits for a start or a stop costs some 20 KiB.
REQUESTS_MAX: Final = 1000
# Bodies on their way: so many fit into the 256 MiB that deploy/base gives us.
TRANSFERS_MAX: Final = 100
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,128}", re.ASCII)
_BEARER: Final = re.compile(r"bearer +(\S+) *", re.IGNORECASE)
_METHODS: Final = frozenset(
    {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
)

_READING: Final = frozenset({"GET", "HEAD", "OPTIONS"})

_log = structlog.get_logger(__name__)


class Gateway:
    """Holds what every request needs; keeps nothing between them."""

    def __init__(self, services: Calls, verifier: Verifier) -> None:
        self._services = services
        self._verifier = verifier
        self._requests = Room(REQUESTS_MAX)
        self._transfers = Room(TRANSFERS_MAX)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError("cannot speak this protocol: send HTTP")
        request = Request(scope, receive)
        # Methods are anybody's invention; our metrics' labels are not.
        method = request.method if request.method in _METHODS else "-"
        report = Report(method)
        request_id = _request_id(request)
        started_at = time.monotonic()
        with (
            structlog.contextvars.bound_contextvars(request_id=request_id),
            HTTP_REQUESTS_IN_FLIGHT.track_inprogress(),
            ExitStack() as places,
        ):
            try:
                response = await self._answer(request, report, places)
                response.headers[REQUEST_ID_HEADER] = request_id
                report.status = response.status_code
                await response(scope, receive, _counting(send, report))
            except asyncio.CancelledError:
                report.status = CLIENT_GONE
                raise
            finally:
                _write(report, time.monotonic() - started_at)
                if report.route != "-" and request.method not in _READING:
                    _audit(report)

    async def _answer(
        self, request: Request, report: Report, places: ExitStack
    ) -> Response:
        """The handler's response, or that of whatever went wrong on the way to it."""
        style = Style.ENVELOPE
        try:
            places.enter_context(self._requests.place())
            exchange, route = await self._admit(request, report)
            style = route.style
            if route.body is Body.BYTES:
                places.enter_context(self._transfers.place())
                return await route.handler(exchange)
            if route.body is Body.JSON:
                await exchange.load()
            return await _unless_gone(request.receive, route.handler(exchange))
        except Problem as error:
            problem = error
        except ServiceError as error:
            problem = from_service(error)
        except ClientDisconnect:
            problem = Problem(CLIENT_GONE, "Client closed the connection")
        except Exception:
            _log.exception(Event.REQUEST_CRASHED, route=report.route)
            problem = Problem(500, INTERNAL_TEXT, reason=Reason.INTERNAL.name)
        report.reason = problem.reason
        return _response(problem, style)

    async def _admit(self, request: Request, report: Report) -> tuple[Exchange, Route]:
        """Route, credential, ids, and whether the one may reach the others."""
        found = find(request.method, request.scope["raw_path"])
        if found is None:
            raise Problem(404, NOT_FOUND)
        route, sent_ids = found
        report.route = route.pattern
        exchange = Exchange(request, {}, self._services, self._verifier, report)
        ids = decode_ids(sent_ids)
        if not route.access.open:
            exchange.token = _bearer(request)
            await self._identify(exchange, route, ids.get("town", ""))
        exchange.ids = {name: check_id(value, name) for name, value in ids.items()}
        report.town = exchange.ids.get("town", "")
        report.agent = exchange.ids.get("agent", "")
        if exchange.caller is not None:
            _authorize(exchange, route)
        return exchange, route

    async def _identify(self, exchange: Exchange, route: Route, town: str) -> None:
        """Who calls; kinds of credentials that the route does not take end here."""
        try:
            caller = await self._verifier.verify(exchange.token, grace_s=route.grace_s)
        except ServiceError as error:
            raise (renewal_problem(error) if route.grace_s else error) from error
        exchange.report.caller_kind = caller.kind.value
        exchange.report.caller = caller
        refused = route.access.refusal(caller.kind)
        if refused == 401:
            # A container is told wherever it looks that another town is not its own.
            if caller.kind is Kind.CONTAINER and not caller.reaches(town):
                raise ServiceError(Reason.TOWN_FOREIGN, f"cannot reach town {town!r}")
            raise ServiceError(Reason.TOKEN_MISSING, "cannot use this kind of token")
        exchange.caller = caller


class Room:
    """Places for so many at once. Who finds none is told to come back."""

    def __init__(self, most: int) -> None:
        self.taken = 0
        self._most = most

    @contextmanager
    def place(self) -> Iterator[None]:
        if self.taken >= self._most:
            raise ServiceError(
                Reason.TOO_MANY_CALLS,
                f"cannot take more than {self._most} at once: try again",
            )
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1


def _authorize(exchange: Exchange, route: Route) -> None:
    caller, ids = exchange.caller, exchange.ids
    assert caller is not None, "open routes are not authorized"
    try:
        authorize(
            caller,
            route.access.rule,
            town=ids.get("town"),
            agent=caller.agent if route.access.by_body else ids.get("agent"),
            rig=ids.get("rig"),
        )
    except ServiceError as error:
        foreign_rig = caller.kind is Kind.AGENT and ids.get("rig") != caller.rig
        if error.reason is Reason.AGENT_FOREIGN and foreign_rig:
            raise Problem(403, RIG_TEXT, reason=error.reason.name) from error
        raise


async def _unless_gone(receive: Receive, work: Awaitable[T]) -> T:
    """Runs a handler; the client's going cancels it, and with it its gRPC calls."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.create_task(gone(receive), name="watch-client")
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


def _request_id(request: Request) -> str:
    given = request.headers.get(REQUEST_ID_HEADER, "")
    return given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


def _bearer(request: Request) -> str:
    found = _BEARER.fullmatch(request.headers.get("authorization", ""))
    return found[1] if found else ""


def _response(problem: Problem, style: Style) -> Response:
    body = problem.body(envelope=style is Style.ENVELOPE)
    response = JSONResponse(body, problem.status, problem.headers)
    if problem.reason:
        response.headers[REASON_HEADER] = problem.reason
    return response


def _audit(report: Report) -> None:
    """The services that were called write lines of their own, under the same id."""
    parts = {"towns": report.town, "agents": report.agent}
    name = "/".join(f"{kind}/{id}" for kind, id in parts.items() if id)
    what, outcome = f"{report.method} {report.route}", report.reason or report.status
    audit.record(report.caller, what, [name] if name else [], str(outcome))


def _counting(send: Send, report: Report) -> Send:
    async def count(message: Message) -> None:
        report.sent_bytes += len(message.get("body", b""))
        await send(message)

    return count


def _write(report: Report, seconds: float) -> None:
    labels = (report.method, report.route)
    HTTP_REQUESTS.labels(*labels, report.status).inc()
    HTTP_REQUEST_SECONDS.labels(*labels).observe(seconds)
    HTTP_BYTES.labels(*labels, "received").inc(report.received_bytes)
    HTTP_BYTES.labels(*labels, "sent").inc(report.sent_bytes)
    # Probes come every few seconds for ever.
    probe = report.status == 200 and not report.caller_kind
    write = _log.debug if probe else _log.info
    write(Event.REQUEST_ENDED, seconds=round(seconds, 6), **report.told())
