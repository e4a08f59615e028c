"""A snapshot service as a process on files and a Valkey of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from services.chassis.channels import StaticToken, open_channel
from tests.support.redis_server import ValkeyProcess
from tests.support.snapshot_frames import NAME, Client
from tests.support.snapshots_process import SnapshotsProcess
from tests.support.tokens import Tokens


class Plant:
    """The process, its stores, and clients for it."""

    def __init__(self, folder: Path, valkey: ValkeyProcess) -> None:
        self.folder = folder
        self.valkey = valkey
        self.tokens = Tokens(folder)
        self.process = SnapshotsProcess(folder, valkey.url, self.tokens)

    @asynccontextmanager
    async def client(self, name: str = NAME) -> AsyncIterator[Client]:
        """A container's, on a connection of its own."""
        token = StaticToken(self.tokens.container())
        channel = open_channel(self.process.address, token)
        try:
            yield Client(channel, name)
        finally:
            await channel.close()

    def files(self, folder: str) -> list[str]:
        """Files below a folder of the blob store."""
        root = self.process.blobs / folder
        return sorted(
            path.relative_to(root).as_posix()
            for path in root.rglob("*")
            if path.is_file()
        )
