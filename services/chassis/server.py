"""A gRPC server with everything a service needs around it, and an orderly stop.

Stopping: health says NOT_SERVING → new calls are refused, watches end → calls in
progress finish → gRPC stops. grpc.aio alone does none of the middle steps.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

import grpc
import structlog
from grpc_channelz.v1 import channelz, channelz_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2

from services.chassis.auth import OPEN, Kind, Rule, Verifier, rule
from services.chassis.gate import CALLS_MAX, Gate
from services.chassis.health import Health
from services.chassis.interceptors import CallInterceptor
from services.chassis.symbols import Symbols
from services.chassis.telemetry import Event
from services.chassis.tls import TlsSettings

# How long a stop may take once the calls of the grace period are over: the last
# answers leave within milliseconds, on a busy machine later; health watches are cut.
FLUSH_S: Final = 2.0
# grpc.aio's own stop was seen to hang with cancelled streams; past this we go on.
STOP_LIMIT_S: Final = 5.0
GRACE_S: Final = 10.0

OPTIONS: Final[Sequence[tuple[str, Any]]] = (
    # Two servers sharing a port by accident would each answer half of the calls.
    ("grpc.so_reuseport", 0),
    # A token of 8 KiB must reach us to be refused with its reason.
    ("grpc.max_metadata_size", 16 * 1024),
    ("grpc.absolute_max_metadata_size", 32 * 1024),
    # Else each stream that waits for its turn is sent megabytes ahead. A message that
    # is being read is still sent at full speed.
    ("grpc.http2.bdp_probe", 0),
    # Clients ping every 30 s (channels.py); allow somewhat more, and no less.
    ("grpc.http2.min_ping_interval_without_data_ms", 20_000),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    # Old connections close, so that clients find new replicas; a transfer that is
    # under way has the hour that a download may last.
    ("grpc.max_connection_age_ms", 30 * 60_000),
    ("grpc.max_connection_age_grace_ms", 60 * 60_000),
)

_log = structlog.get_logger(__name__)


class BindError(Exception):
    """The address cannot be listened on; the text names it."""


class Server:
    """One listening server; add servicers to `.grpc`, then `start`."""

    def __init__(
        self,
        address: str,
        policy: Mapping[str, Rule],
        verifier: Verifier,
        service_names: Sequence[str],
        *,
        tls: TlsSettings | None = None,
        calls_max: int = CALLS_MAX,
    ) -> None:
        self.address = address
        self.port = 0
        self.health = Health(service_names)
        self.gate = Gate(calls_max)
        self._tls = tls or TlsSettings()
        self._verifier = verifier
        interceptor = CallInterceptor(
            {**infrastructure_policy(), **policy}, verifier, self.gate
        )
        self.grpc: grpc.aio.Server = grpc.aio.server(
            interceptors=[interceptor], options=OPTIONS
        )
        self._add_infrastructure(service_names)

    @property
    def in_flight(self) -> int:
        return self.gate.in_flight

    @property
    def host(self) -> str:
        return self.address.rpartition(":")[0]

    async def start(self) -> int:
        """Listens and serves; returns the port that was bound."""
        try:
            self.port = self._bind()
        except RuntimeError as error:
            raise BindError(
                f"cannot listen on {self.address}: the port is taken or the host is "
                "not ours; end the other process or choose another port"
            ) from error
        await self.health.start()
        await self.grpc.start()
        _log.info(Event.SERVER_STARTED, address=f"{self.host}:{self.port}")
        return self.port

    async def stop(self, grace_s: float = GRACE_S) -> None:
        """Ends in order; calls still running after the grace are cut."""
        _log.info(Event.SERVER_STOPPING, in_flight=self.in_flight, grace_s=grace_s)
        await self.health.stop()
        self.gate.close()
        if not await self.gate.wait_idle(grace_s):
            _log.warning(Event.SERVER_STOP_CUT, in_flight=self.in_flight)
        try:
            async with asyncio.timeout(STOP_LIMIT_S):
                await self.grpc.stop(FLUSH_S)
                await self.gate.wait_idle(STOP_LIMIT_S)
        except TimeoutError:
            _log.error(Event.SERVER_STOP_CUT, in_flight=self.in_flight)
        await self._verifier.aclose()
        _log.info(Event.SERVER_STOPPED)

    def _bind(self) -> int:
        credentials = self._tls.server_credentials()
        if credentials is None:
            return self.grpc.add_insecure_port(self.address)
        return self.grpc.add_secure_port(self.address, credentials)

    def _add_infrastructure(self, service_names: Sequence[str]) -> None:
        health_pb2_grpc.add_HealthServicer_to_server(self.health.servicer, self.grpc)
        channelz.add_channelz_servicer(self.grpc)
        shown = [*service_names, *(s.full_name for s in _INFRASTRUCTURE)]
        reflection.enable_server_reflection(shown, self.grpc, Symbols())


_INFRASTRUCTURE: Final = (
    health_pb2.DESCRIPTOR.services_by_name["Health"],
    reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"],
    channelz_pb2.DESCRIPTOR.services_by_name["Channelz"],
)


def infrastructure_policy() -> dict[str, Rule]:
    """Rows for what every server answers: probes are open, channelz is not."""
    rows = {}
    for service in _INFRASTRUCTURE:
        channelz_row = rule(Kind.OPERATOR, townless=True)
        row = channelz_row if service.name == "Channelz" else OPEN
        for method in service.methods:
            rows[f"/{service.full_name}/{method.name}"] = row
    return rows


async def run_until_signal(
    server: Server,
    on_stop: Callable[[], Awaitable[None]] | None = None,
    grace_s: float = GRACE_S,
    on_start: Callable[[int], Awaitable[None]] | None = None,
) -> None:
    """Serves until SIGTERM or SIGINT, then `on_stop`, then stops; a second one cuts.

    `on_start` is given the port, once it is known and before `ready` is said.
    """
    stop, cut = asyncio.Event(), asyncio.Event()

    def notice() -> None:
        (cut if stop.is_set() else stop).set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, notice)
    try:
        port = await server.start()
        begun = on_start is None or await _begun(server, on_start(port), stop)
        if begun:
            sys.stdout.write(f"ready grpc://{server.host}:{port}\n")
            sys.stdout.flush()
            await stop.wait()
        await _or_cut(_wind_down(server, on_stop, grace_s), cut)
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


async def _begun(
    server: Server, beginning: Awaitable[None], stop: asyncio.Event
) -> bool:
    """Waits for a beginning; False when a signal came first, which ends it. One that
    fails ends the server too."""
    work = asyncio.ensure_future(beginning)
    signalled = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({work, signalled}, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            work.result()
        return work.done()
    except BaseException:
        await server.stop(0.0)
        raise
    finally:
        for task in (work, signalled):
            task.cancel()
        await asyncio.gather(work, signalled, return_exceptions=True)


async def _wind_down(
    server: Server, on_stop: Callable[[], Awaitable[None]] | None, grace_s: float
) -> None:
    try:
        if on_stop is not None:
            await on_stop()
    finally:
        await server.stop(grace_s)


async def _or_cut(work: Awaitable[None], cut: asyncio.Event) -> None:
    running = asyncio.ensure_future(work)
    waiting = asyncio.ensure_future(cut.wait())
    await asyncio.wait({running, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if not running.done():
        _log.warning(Event.SERVER_STOP_CUT)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        return
    running.result()
