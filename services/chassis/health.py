"""grpc.health.v1 over the checks that a process registers.

The empty name says the process is alive; each service's name says it can do its work,
which is when every check passes. Probes use the first for life, the second for traffic.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Final

import grpc
import structlog
from grpc_health.v1 import health, health_pb2

from services.chassis.errors import ServiceError
from services.chassis.telemetry import HEALTHY, Event

Check = Callable[[], Awaitable[None]]

CHECK_EVERY_S: Final = 2.0
# A dependency that takes longer to answer a ping is of no use to a caller either.
CHECK_TIMEOUT_S: Final = 2.0

_SERVING: Final = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING: Final = health_pb2.HealthCheckResponse.NOT_SERVING

_log = structlog.get_logger(__name__)


class _Servicer(health.aio.HealthServicer):  # type: ignore[misc]
    """The standard servicer, with the `List` that it lacks."""

    async def List(self, request: Any, context: Any) -> Any:
        return health_pb2.HealthListResponse(
            statuses={
                name: health_pb2.HealthCheckResponse(status=status)
                for name, status in self._server_status.items()
            }
        )


class Health:
    """The state of this process, kept up to date by one task."""

    def __init__(self, service_names: Iterable[str]) -> None:
        self.servicer = _Servicer()
        self.failing: dict[str, str] = {}
        self.noted: dict[str, str] = {}
        self._names = tuple(service_names)
        self._checks: dict[str, Check] = {}
        self._notes: dict[str, Check] = {}
        self._task: asyncio.Task[None] | None = None

    def register(self, name: str, check: Check) -> None:
        """Adds a check; it fails by raising, and must not change anything."""
        self._checks[name] = check

    def note(self, name: str, check: Check) -> None:
        """Adds a check of something that the services do their work without: it is
        told under its own name, and makes nobody stop calling."""
        self._notes[name] = check

    @property
    def ready(self) -> bool:
        return not self.failing

    async def start(self) -> None:
        """Runs every check once, then again and again in the background."""
        await self._look()
        if self._task is None:
            self._task = asyncio.create_task(self._watch(), name="health")

    async def stop(self) -> None:
        """Says NOT_SERVING for good."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self.servicer.enter_graceful_shutdown()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(CHECK_EVERY_S)
            await self._look()

    async def _look(self) -> None:
        failing, noted = await _failing(self._checks), await _failing(self._notes)
        if (failing.keys(), noted.keys()) != (self.failing.keys(), self.noted.keys()):
            _log.warning(Event.HEALTH_CHANGED, failing=failing | noted)
        self.failing, self.noted = failing, noted
        for name in self._names:
            await self.servicer.set(name, _NOT_SERVING if failing else _SERVING)
        for name in self._notes:
            await self.servicer.set(name, _NOT_SERVING if name in noted else _SERVING)


async def _failing(checks: Mapping[str, Check]) -> dict[str, str]:
    results = await asyncio.gather(*map(_problem, checks.values()))
    failing = {}
    for name, problem in zip(checks, results, strict=True):
        HEALTHY.labels(name).set(0 if problem else 1)
        if problem:
            failing[name] = problem
    return failing


async def _problem(check: Check) -> str:
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_S):
            await check()
    except ServiceError as error:
        return error.message
    except TimeoutError:
        return f"no answer within {CHECK_TIMEOUT_S:g} s"
    except grpc.RpcError as error:
        return f"a call failed: {error.__class__.__name__}"
    except Exception as error:  # a check is a task root: its failure is its answer
        return f"{error.__class__.__name__}: {error}"
    return ""
