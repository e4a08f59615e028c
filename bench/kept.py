"""What is kept of a session once it is over: thinned, compacted, collected.

The service runs in this process on a clock of ours, so that an hour passes at once;
its store is in memory, where each byte of it can be counted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from bench.recording import Image, State
from services.chassis.channels import StaticToken
from services.chassis.names import AgentName
from services.supervisor.places import Places
from services.supervisor.saver import Saver
from services.supervisor.snapshots_client import SnapshotsClient
from services.supervisor.specs import Identity
from tests.support.clock import ManualClock
from tests.support.snapshots_world import World, serving

SIZE_BYTES_MAX: Final = 1 << 30
AGENT: Final = AgentName("town-1", "mayor")
# Past the time for which every generation is kept, and past Litestream's level 2.
LATER_S: Final = 3600.0


def kept_bytes(folder: Path, states: Iterable[State]) -> int:
    """Of all segments and records, an hour after saves at these moments."""
    return asyncio.run(_kept_bytes(folder, states))


async def _kept_bytes(folder: Path, states: Iterable[State]) -> int:
    clock = ManualClock()
    async with serving(folder, clock=clock, size_bytes_max=SIZE_BYTES_MAX) as world:
        places = Places(folder / "agent")
        places.prepare()
        database = places.home / "session.db"
        client = _client(world)
        await client.advance(AGENT, 1)
        saver = _saver(client, clock, places, database)
        await saver.open()
        image = Image()
        for state in states:
            image.apply(state)
            image.put(database)
            await saver.save()
            await world.parts.compactor.compact(AGENT)
            clock.advance(1.0)
        await saver.close()
        await client.close()
        clock.advance(LATER_S)
        await world.parts.sweeper.sweep(full=True)
        await world.parts.compactor.compact(AGENT)
        await world.parts.sweeper.sweep(full=True)
        return sum(map(len, world.blobs.blobs.values()))


def _client(world: World) -> SnapshotsClient:
    identity = Identity(AGENT.town, "bench", "boot-1")
    token = StaticToken(world.tokens.container())
    return SnapshotsClient(world.server.address, token, identity)


def _saver(
    client: SnapshotsClient, clock: ManualClock, places: Places, database: Path
) -> Saver:
    return Saver(
        name=AGENT,
        epoch=1,
        database=database,
        places=places,
        snapshots=client,
        clock=clock,
        runtime="kilo",
        runtime_version="7.7.9",
    )
