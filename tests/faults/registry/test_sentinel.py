"""Primaries under Sentinels die, one after the other, while messages are accepted:
none of those is lost or twice, and the registry is not restarted.

ROUNDS makes it a campaign.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from pathlib import Path

import pytest

from tests.faults.campaign import asked
from tests.faults.registry.message_writers import writing
from tests.support.redis_sentinel import ValkeySentinels, is_primary
from tests.support.redis_server import ValkeyProcess

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]

TOWNS = ("a", "b", "c")


def come_back(dead: ValkeyProcess) -> None:
    """It calls itself a primary until the Sentinels tell it, and nobody believes it."""
    dead.start()
    # They cut all connections when they do so, ours too.
    with suppress(ConnectionError):
        while is_primary(dead):
            assert b"name=townkeeper" not in dead.command("CLIENT", "LIST")


async def test_no_accepted_message_is_lost_with_a_primary(tmp_path: Path) -> None:
    """A replica takes over, the dead one comes back as a replica, round and round."""
    rounds, seed = asked(3)
    moments = random.Random(seed)
    with ValkeySentinels(tmp_path / "sentinels") as sentinels:
        async with writing(sentinels.url, tmp_path, TOWNS, replicas=1) as writers:
            for _ in range(rounds):
                await asyncio.sleep(moments.random())
                dead = await asyncio.to_thread(sentinels.kill_primary)
                await writers.go_on()
                await asyncio.to_thread(come_back, dead)
                await asyncio.to_thread(sentinels.wait_whole)
                await writers.go_on()
