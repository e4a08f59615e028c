"""Following what the registry says was revoked, for every other service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc.aio
import structlog

from services.chassis.access import ANY_TOWN, EVERY_TOWN
from services.chassis.channels import FileToken, open_channel
from services.chassis.errors import Code, ServiceError, rpc_errors
from services.chassis.names import RunName, TownName
from services.chassis.parsers import existing_file
from services.chassis.revocations import STALE_S, RevocationList, Revoked
from services.chassis.settings import var
from services.chassis.tasks import ended
from services.chassis.telemetry import Event
from services.chassis.tls import TlsSettings
from townkeeper.registry.v1 import registry_pb2 as pb
from townkeeper.registry.v1 import registry_pb2_grpc

_PAUSE_S: Final = 0.5
_FIRST_S: Final = 5.0

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ServiceTokenSettings:
    """With what a service that is of no town asks the registry."""

    token_file: Path | None = var(
        "TOWNKEEPER_SERVICE_TOKEN_FILE",
        existing_file,
        default=None,
        help="the file with the token by which this service learns what was revoked",
        example="/etc/townkeeper/service.token",
    )

    def revocations(self) -> RevocationList:
        """The list that is followed, or an empty one when nobody can be asked."""
        return RevocationList(followed=self.token_file is not None)


@asynccontextmanager
async def following(
    settings: ServiceTokenSettings,
    registry: str | None,
    known: RevocationList,
    tls: TlsSettings | None = None,
) -> AsyncIterator[None]:
    """Keeps the list of all towns up to date inside the block."""
    if settings.token_file is None or registry is None:
        _log.warning(Event.REVOCATIONS_UNKNOWN, why="no TOWNKEEPER_SERVICE_TOKEN_FILE")
        yield
        return
    channel = open_channel(registry, FileToken(settings.token_file), tls=tls)
    task = asyncio.create_task(follow(channel, EVERY_TOWN, known), name="revocations")
    try:
        # Whoever calls us first should not have to call again. A registry that is away
        # for longer is not waited for: we start, and refuse everybody until it is back.
        with suppress(TimeoutError):
            async with asyncio.timeout(_FIRST_S):
                await known.wait_known()
        yield
    finally:
        await ended(task)
        await channel.close()


async def follow(channel: grpc.aio.Channel, parent: str, known: RevocationList) -> None:
    """Follows for ever; a registry that is away is waited for, and told of once."""
    stub: registry_pb2_grpc.RegistryServiceAsyncStub = (
        registry_pb2_grpc.RegistryServiceStub(channel)
    )
    away = False
    while True:
        try:
            async for synced in _steps(stub, parent, known):
                if synced and away:
                    _log.info(Event.REVOCATIONS_FOLLOWED)
                away = away and not synced
        except (ServiceError, TimeoutError) as error:
            if isinstance(error, ServiceError) and error.code is Code.UNIMPLEMENTED:
                # A registry from before there was revocation: it revokes nothing.
                known.heard()
            if not away:
                _log.warning(Event.REVOCATIONS_STALE, why=str(error) or "silence")
            away = True
        except Exception:
            # The root of a task: it ends with the process, not before.
            _log.exception(Event.REVOCATIONS_STALE)
            away = True
        await asyncio.sleep(_PAUSE_S)


async def _steps(
    stub: registry_pb2_grpc.RegistryServiceAsyncStub,
    parent: str,
    known: RevocationList,
) -> AsyncIterator[bool]:
    """One watch, until it breaks or falls silent; whether each step was `synced`."""
    with rpc_errors():
        call = stub.WatchRevocations(pb.WatchRevocationsRequest(parent=parent))
        try:
            # The first lists replace all: what is not told any more is forgotten.
            first: dict[str, Revoked] | None = {}
            while True:
                async with asyncio.timeout(STALE_S):
                    step = await call.read()
                if not isinstance(step, pb.WatchRevocationsResponse):
                    return
                if step.town and first is not None:
                    first[_town(step)] = _revoked(step)
                elif step.town:
                    known.update(_town(step), _revoked(step))
                if step.synced:
                    if first is not None:
                        known.replace(first)
                        first = None
                    known.heard()
                yield step.synced
        finally:
            call.cancel()


def _town(step: pb.WatchRevocationsResponse) -> str:
    return ANY_TOWN if step.town == EVERY_TOWN else TownName.parse(step.town).town


def _revoked(step: pb.WatchRevocationsResponse) -> Revoked:
    runs = (RunName.parse(run) for run in step.runs)
    return Revoked(
        token_ids=frozenset(step.token_ids),
        runs=frozenset(f"{run.agent}/{run.run}" for run in runs),
        generation=step.token_generation,
    )
