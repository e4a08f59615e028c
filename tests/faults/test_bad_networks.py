"""The ways to the registry and to the store are cut, slow or silent, in any order,
under an agent that never rests. Nobody dies, and nobody may need to be restarted.

`ROUNDS=100 SEED=7` plays it for longer; the order of troubles follows from the seed.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final

import pytest

from tests.support.container import Container
from tests.support.plane import PlaneProcess
from tests.support.slow_proxy import SlowProxy
from tests.support.town import Town
from tests.support.unresting import AGENT, Unresting

pytestmark = pytest.mark.faults

# Shorter than a lease, so that the agent stays where it is.
TROUBLE_S: Final = 2.0


def cut(way: SlowProxy) -> None:
    """Once, in the middle of whatever is on its way."""
    way.cut()


def cut_again_and_again(way: SlowProxy) -> None:
    """Streams never live for long."""
    end = time.monotonic() + TROUBLE_S
    while time.monotonic() < end:
        way.cut()
        time.sleep(0.05)


def refuse(way: SlowProxy) -> None:
    """As a service that is not there."""
    way.refusing = True
    way.cut()
    time.sleep(TROUBLE_S)
    way.refusing = False


def swallow_answers(way: SlowProxy) -> None:
    """What is asked is done, but nobody hears of it; then the connection is reset."""
    way.to_client.hole = True
    time.sleep(TROUBLE_S)
    way.cut()
    way.to_client.hole = False


def be_silent(way: SlowProxy) -> None:
    """Nothing passes for a while; then all of it does."""
    way.hole = True
    time.sleep(TROUBLE_S)
    way.hole = False


def be_slow(way: SlowProxy) -> None:
    """Half a second each way."""
    way.to_server.delay_s = way.to_client.delay_s = 0.5
    time.sleep(TROUBLE_S)
    way.to_server.delay_s = way.to_client.delay_s = 0.0


TROUBLES: Final[list[Callable[[SlowProxy], None]]] = [
    cut,
    cut_again_and_again,
    refuse,
    swallow_answers,
    be_silent,
    be_slow,
]


@pytest.mark.timeout(3600)
def test_whatever_the_network_does_nothing_acknowledged_is_lost(
    plane: PlaneProcess, tmp_path: Path
) -> None:
    """To the registry, to the store, or to both; the agent's process is the same."""
    rounds = int(os.environ.get("ROUNDS") or 2)
    dice = random.Random(int(os.environ.get("SEED") or 1))
    town = Town(plane, "network")
    with (
        SlowProxy(plane.endpoints.registry) as to_registry,
        SlowProxy(plane.endpoints.snapshots) as to_store,
        Container(
            plane,
            tmp_path / "c",
            town="network",
            slot="one",
            snapshots=to_store.address,
            TOWNKEEPER_REGISTRY_ADDR=to_registry.address,
        ) as container,
    ):
        stub = container.supervisor()
        agent = Unresting(town, lambda: stub, lambda: container.root)
        agent.start()
        before = town.status(AGENT)
        for _ in range(rounds):
            ways = dice.choice([[to_registry], [to_store], [to_store, to_registry]])
            trouble = dice.choice(TROUBLES)
            name = f"{trouble.__name__} on {len(ways)} ways"
            agent.through(partial(on_all, trouble, ways), name, dice.uniform(0.1, 1.0))

        after = town.status(AGENT)
        for same in ("startedAt", "epoch", "instanceId"):
            assert before[same] == after[same]


def on_all(trouble: Callable[[SlowProxy], None], ways: list[SlowProxy]) -> None:
    """At the same time."""
    with ThreadPoolExecutor(len(ways)) as pool:
        list(pool.map(trouble, ways))
