"""Primaries under Sentinels die, one after the other, while messages are accepted:
none of those is lost or twice, and the registry is not restarted.

ROUNDS makes it a campaign.
"""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from tests.faults.campaign import asked
from tests.faults.registry.message_writers import writing
from tests.support.redis_sentinel import ValkeySentinels, is_primary

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]

TOWNS = ("a", "b", "c")


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
                dead.start()
                await asyncio.to_thread(sentinels.wait_whole)
                assert not is_primary(dead)
                await writers.go_on()
