"""Channels to the services: two fixed ones, and one for each supervisor's address."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.chassis.channels import open_channel
from services.chassis.errors import ServiceError, rpc_errors
from services.chassis.tls import TlsSettings
from services.gateway.registry_client import RegistryClient
from services.gateway.snapshots_client import SnapshotsClient
from services.gateway.supervisor_client import SupervisorClient
from townkeeper.registry.v1 import registry_pb2, registry_pb2_grpc
from townkeeper.snapshots.v1 import snapshots_pb2, snapshots_pb2_grpc
from townkeeper.supervisor.v1 import supervisor_pb2_grpc

# Idle channels kept open: a channel is two sockets, so at most 512 of them.
SUPERVISORS_MAX: Final = 256
HEALTH_TIMEOUT_S: Final = 2.0
# Of each download, while its client reads slowly: 100 of them stay below 256 MiB.
READ_AHEAD_BYTES: Final = 64 * 1024


@dataclass(slots=True)
class _Shared:
    """A channel to one supervisor, and how many requests use it now."""

    channel: grpc.aio.Channel
    users: int = 0


class Services:
    """What a gateway calls. Open it inside the loop, close it at the end."""

    def __init__(
        self, registry: str, snapshots: str, tls: TlsSettings | None = None
    ) -> None:
        self._tls = tls
        self._channels = {
            _name(registry_pb2): open_channel(registry, tls=tls),
            _name(snapshots_pb2): open_channel(
                snapshots, tls=tls, read_ahead_bytes=READ_AHEAD_BYTES
            ),
        }
        to_registry, to_snapshots = self._channels.values()
        self._registry: registry_pb2_grpc.RegistryServiceAsyncStub = (
            registry_pb2_grpc.RegistryServiceStub(to_registry)
        )
        self._snapshots: snapshots_pb2_grpc.SnapshotServiceAsyncStub = (
            snapshots_pb2_grpc.SnapshotServiceStub(to_snapshots)
        )
        self._supervisors: OrderedDict[str, _Shared] = OrderedDict()

    async def close(self) -> None:
        shared = [one.channel for one in self._supervisors.values()]
        self._supervisors.clear()
        for channel in (*self._channels.values(), *shared):
            await channel.close()

    @property
    def supervisor_count(self) -> int:
        return len(self._supervisors)

    def knows(self, address: str) -> bool:
        """Whether a channel to this supervisor is open."""
        return address in self._supervisors

    def registry(self, token: str) -> RegistryClient:
        """The registry, on behalf of whoever holds the token."""
        return RegistryClient(self._registry, token)

    def snapshots(self, token: str) -> SnapshotsClient:
        return SnapshotsClient(self._snapshots, token)

    @asynccontextmanager
    async def supervisor(
        self, address: str, token: str
    ) -> AsyncIterator[SupervisorClient]:
        """The supervisor at an address; its channel outlives the block."""
        shared = self._supervisors.get(address)
        if shared is None:
            shared = _Shared(open_channel(address, tls=self._tls))
            self._supervisors[address] = shared
        self._supervisors.move_to_end(address)
        shared.users += 1
        stub: supervisor_pb2_grpc.SupervisorServiceAsyncStub = (
            supervisor_pb2_grpc.SupervisorServiceStub(shared.channel)
        )
        try:
            yield SupervisorClient(stub, token)
        finally:
            shared.users -= 1
            await self._close_idle()

    async def _close_idle(self) -> None:
        # Those in use stay: closing would cut calls, and the app bounds their number.
        for address, shared in list(self._supervisors.items()):
            if len(self._supervisors) <= SUPERVISORS_MAX:
                return
            if not shared.users:
                del self._supervisors[address]
                await shared.channel.close()

    async def failing(self) -> dict[str, str]:
        """Why services that every town needs are not serving; empty: all do."""
        names = [name.split(".")[1] for name in self._channels]
        found = await asyncio.gather(
            *(_problem(channel, name) for name, channel in self._channels.items())
        )
        return {name: why for name, why in zip(names, found, strict=True) if why}


def _name(module: object) -> str:
    descriptor = module.DESCRIPTOR  # type: ignore[attr-defined]
    (service,) = descriptor.services_by_name.values()
    return str(service.full_name)


async def _problem(channel: grpc.aio.Channel, service: str) -> str:
    request = health_pb2.HealthCheckRequest(service=service)
    stub = health_pb2_grpc.HealthStub(channel)
    try:
        with rpc_errors():
            reply = await stub.Check(request, timeout=HEALTH_TIMEOUT_S)
    except ServiceError as error:
        return error.reason.name
    serving = health_pb2.HealthCheckResponse.SERVING
    return "" if reply.status == serving else "NOT_SERVING"
