"""One snapshot service a test, over stores in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support import segments as made
from tests.support.snapshot_frames import Client
from tests.support.snapshots_world import World, serving
from townkeeper.snapshots.v1.resources_pb2 import Snapshot


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with serving(tmp_path) as world:
        yield world


@pytest.fixture
def client(world: World) -> Client:
    """The container that is about to own the agent."""
    return world.client


class Saves:
    """An agent's database over time, and how to save it."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.images: list[made.Image] = []
        self.epoch = 1

    @property
    def generation(self) -> int:
        return len(self.images)

    async def base(self, page_count: int = 40, seed: int = 0) -> Snapshot:
        image = made.image(page_count, seed=seed)
        saved = await self.upload(made.base(image), image)
        self.images.append(image)
        return saved

    async def delta(self, *numbers: int) -> Snapshot:
        """Changes these pages of the newest image and saves the difference."""
        old = self.images[-1]
        image = made.edited(old, numbers or [3, 7], b"v%d" % self.generation)
        saved = await self.upload(made.delta(old, image), image)
        self.images.append(image)
        return saved

    async def upload(self, segment: bytes, image: made.Image) -> Snapshot:
        return await self.client.upload(
            segment,
            bytes(made.fingerprint(image)),
            epoch=self.epoch,
            if_generation_match=self.generation,
        )

    def file(self, generation: int) -> bytes:
        """The whole database as it was."""
        return b"".join(self.images[generation - 1])


@pytest.fixture
async def saves(client: Client) -> Saves:
    """The agent is owned; nothing is saved yet."""
    await client.advance()
    return Saves(client)
