"""Primaries of a Redis Cluster die, one after the other, while messages are accepted:
none of those is lost or twice, and the registry is not restarted.

ROUNDS makes it a campaign.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.faults.campaign import asked
from tests.faults.registry.message_writers import writing
from tests.support.redis_cluster import ValkeyCluster

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]

# On all three primaries.
TOWNS = ("a", "b", "c", "d", "e", "f")


async def test_no_accepted_message_is_lost_with_a_primary(tmp_path: Path) -> None:
    """Its replica takes over, it comes back as a replica, and so round and round."""
    rounds, _ = asked(3)
    with ValkeyCluster(tmp_path / "cluster") as cluster:
        async with writing(cluster.url, tmp_path, TOWNS, replicas=1) as writers:
            for number in range(rounds):
                town = TOWNS[number % len(TOWNS)]
                dead = await asyncio.to_thread(cluster.kill_primary_of, f"{{{town}}}")
                dead.start()
                await asyncio.to_thread(cluster.wait_whole)
                await writers.go_on()
