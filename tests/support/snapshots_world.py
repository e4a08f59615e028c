"""A snapshot service in this process: real port, real interceptors, any two stores.

async with serving(tmp_path) as world:
    await world.client.advance()
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import grpc

from services.chassis.clock import Clock, SystemClock
from services.chassis.names import AgentName
from services.snapshots import records
from services.snapshots.__main__ import SERVICE
from services.snapshots.assembly import Parts, assemble
from services.snapshots.file_staging import FileStaging
from services.snapshots.policy import POLICY
from services.snapshots.servicer import SnapshotServicer
from services.snapshots.upkeep import OneProcess
from tests.fakes.blob_store import MemoryBlobs
from tests.fakes.rot_log import MemoryRotLog
from tests.fakes.snapshot_catalog import MemoryCatalog
from tests.support.grpc_server import RunningServer, running
from tests.support.snapshot_frames import NAME, Client
from tests.support.tokens import Tokens
from townkeeper.snapshots.v1 import snapshots_pb2_grpc
from townkeeper.snapshots.v1.resources_pb2 import Snapshot

SIZE_BYTES_MAX = 8 << 20


@dataclass
class World:
    """The service, what is behind it, and a supervisor's client in front of it."""

    server: RunningServer
    tokens: Tokens
    parts: Parts
    blobs: MemoryBlobs
    catalog: MemoryCatalog
    folder: Path

    @property
    def client(self) -> Client:
        """A supervisor of the town."""
        return self.client_with(self.tokens.container())

    def client_with(self, token: str | None, name: str = NAME) -> Client:
        return Client(self.server.channel(token), name)

    def segment_key(self, snapshot: Snapshot, index: int = -1) -> str:
        town = AgentName.parse(snapshot.name.partition("/snapshots/")[0]).town
        return records.segment_key(town, snapshot.segments[index].blake3)

    async def forget_records(self) -> None:
        """Leaves all records but the head's to the blob store."""
        agent = AgentName.parse(NAME)
        await self.catalog.trim(agent, list(await self.catalog.recent(agent))[:-1])

    @property
    def staged(self) -> list[str]:
        """Names of uploads that wait on disk."""
        paths = (self.folder / "staging").rglob("*.*")
        return sorted(path.name for path in paths)

    @property
    def scratch(self) -> list[str]:
        return sorted(path.name for path in (self.folder / "scratch").iterdir())


@contextlib.asynccontextmanager
async def serving(
    folder: Path,
    *,
    clock: Clock | None = None,
    size_bytes_max: int = SIZE_BYTES_MAX,
) -> AsyncIterator[World]:
    """Over stores in memory; uploads and scratch files lie in the folder."""
    for name in ("staging", "scratch", "local"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    numbers = itertools.count()
    clock = clock or SystemClock()
    tokens = Tokens(folder)
    blobs, catalog = MemoryBlobs(folder / "local"), MemoryCatalog()
    parts = assemble(
        blobs,
        catalog,
        FileStaging(folder / "staging", clock),
        OneProcess(),
        MemoryRotLog(),
        lambda: folder / "scratch" / str(next(numbers)),
        clock,
        size_bytes_max=size_bytes_max,
    )
    servicer = SnapshotServicer(parts)

    def add(server: grpc.aio.Server) -> None:
        snapshots_pb2_grpc.add_SnapshotServiceServicer_to_server(servicer, server)

    async with running(add, POLICY, tokens, [SERVICE.full_name]) as server:
        yield World(server, tokens, parts, blobs, catalog, folder)
        await parts.intake.close()
