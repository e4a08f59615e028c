"""uvicorn on one socket: limits on what comes before a request, and an orderly stop."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys
from typing import Any, Final

import structlog
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from services.chassis.server import BindError
from services.chassis.telemetry import Event
from services.chassis.tls import TlsSettings

# A token has at most 8 KiB; browsers send as much again in other headers.
HEADER_BYTES_MAX: Final = 32 * 1024
# What a header takes beside its text: thousands of short ones are no better.
HEADER_COST_BYTES: Final = 32
# From the connection, or the last answer, to the end of the next request's headers.
HEADERS_S: Final = 20.0
IDLE_S: Final = 75
CONNECTIONS_MAX: Final = 4096
BACKLOG: Final = 2048
# Answers in progress get this long after SIGTERM, below the 30 s of deploy/base.
GRACE_S: Final = 20

_log = structlog.get_logger(__name__)


class LimitedProtocol(HttpToolsProtocol):
    """uvicorn's own, with an end to headers in size and time, which it lacks."""

    _header_bytes = 0
    _waiting_bytes = 0
    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._await_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        # The parser tells of a header when it has all of it, which may be never.
        waiting = self._late is not None and not self.transport.is_closing()
        self._waiting_bytes = self._waiting_bytes + len(data) if waiting else 0
        if self._waiting_bytes > HEADER_BYTES_MAX:
            self.send_400_response("Headers are too long.")

    def on_message_begin(self) -> None:
        self._header_bytes = 0
        self._await_headers()
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(HEADER_COST_BYTES + len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._stop_waiting()
        super().on_headers_complete()

    def _count(self, size_bytes: int) -> None:
        self._header_bytes += size_bytes
        if self._header_bytes > HEADER_BYTES_MAX:
            # Whatever a callback raises, uvicorn answers 400 and closes.
            raise ValueError("cannot take headers this long: send fewer")

    def _await_headers(self) -> None:
        if self._late is None:
            loop = asyncio.get_running_loop()
            self._late = loop.call_later(HEADERS_S, self._give_up)

    def _stop_waiting(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _give_up(self) -> None:
        self._late = None
        self.transport.close()


class Listener:
    """Binds at once, so that a taken port is an error before anything else starts."""

    def __init__(self, address: str, tls: TlsSettings) -> None:
        self._tls = tls
        self._host, _, port = address.rpartition(":")
        try:
            self._socket = _bind(self._host.strip("[]"), int(port))
        except OSError as error:
            raise BindError(
                f"cannot listen on {address}: {error.strerror or error}; end the other"
                " process or choose another address in TOWNKEEPER_GATEWAY_ADDR"
            ) from error
        self.port: int = self._socket.getsockname()[1]

    def close(self) -> None:
        self._socket.close()

    @property
    def url(self) -> str:
        scheme = "https" if self._tls.cert else "http"
        return f"{scheme}://{self._host}:{self.port}"

    async def run(self, app: ASGIApp) -> None:
        """Serves until SIGTERM or SIGINT; a second one cuts what is in progress."""
        server = self.server(app)
        loop = asyncio.get_running_loop()
        signals = (signal.SIGTERM, signal.SIGINT)
        for number in signals:
            loop.add_signal_handler(number, server.stop)
        try:
            await server.serve()
        finally:
            for number in signals:
                loop.remove_signal_handler(number)

    def server(self, app: ASGIApp) -> HttpServer:
        return HttpServer(self._config(app), self._socket, self.url)

    def _config(self, app: ASGIApp) -> uvicorn.Config:
        # All of uvicorn's own lines are about what clients did, or repeat ours.
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        return uvicorn.Config(
            app,
            loop="asyncio",
            http=LimitedProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            limit_concurrency=CONNECTIONS_MAX,
            timeout_keep_alive=IDLE_S,
            timeout_graceful_shutdown=GRACE_S,
            ssl_certfile=self._tls.cert,
            ssl_keyfile=self._tls.key,
        )


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Named as TCP, or asyncio would leave Nagle's algorithm on: 40 ms an answer.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
        bound.listen(BACKLOG)
    except OSError:
        bound.close()
        raise
    return bound


class HttpServer(uvicorn.Server):
    """Says `ready` once it accepts; signals are the listener's business."""

    def __init__(self, config: uvicorn.Config, bound: socket.socket, url: str) -> None:
        super().__init__(config)
        self._socket = bound
        self._url = url

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        # Without uvicorn's handlers, which raise the signal once more when all is done.
        await self._serve([self._socket])

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        _log.info(Event.SERVER_STARTED, address=self._url)
        sys.stdout.write(f"ready {self._url}\n")
        sys.stdout.flush()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        _log.info(Event.SERVER_STOPPING)
        await super().shutdown(sockets)
        _log.info(Event.SERVER_STOPPED)

    def stop(self) -> None:
        """Ends in order; told so again, cuts."""
        self.force_exit = self.should_exit
        self.should_exit = True
