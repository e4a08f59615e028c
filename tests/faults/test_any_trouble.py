"""One thing after another dies, in any order, under an agent that never rests.

`ROUNDS=100 SEED=7` plays it for longer; the order of troubles follows from the seed.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Final

import pytest

from tests.support.plane import PlaneProcess
from tests.support.town import Town
from tests.support.unresting import AGENT, OPTIONS, Unresting

pytestmark = pytest.mark.faults

PAUSE_S: Final = 2.0


def kill_child(name: str) -> Callable[[Town], None]:
    """A service dies alone; `up` starts it again. An agent is left as an orphan."""

    def strike(town: Town) -> None:
        town.plane.child(name).send(signal.SIGKILL)

    strike.__name__ = f"kill {name}"
    return strike


def pause_child(name: str) -> Callable[[Town], None]:
    """A service stands still for a while, its connections open."""

    def strike(town: Town) -> None:
        child = town.plane.child(name)
        child.send(signal.SIGSTOP)
        time.sleep(PAUSE_S)  # how long it lasts, not a wait
        child.send(signal.SIGCONT)

    strike.__name__ = f"pause {name}"
    return strike


def kill_agent(town: Town) -> None:
    """The program alone dies."""
    run = town.plane.find_run(AGENT)
    if run is not None and run.pid:
        os.kill(run.pid, signal.SIGKILL)


def kill_container(town: Town) -> None:
    town.plane.kill_container()


def lose_container(town: Town) -> None:
    town.plane.kill_container(wipe=True)


def kill_up(town: Town) -> None:
    town.plane.kill_up()
    town.plane.start()


def power_off(town: Town) -> None:
    town.plane.kill_everything()
    town.plane.start()


def power_off_and_lose_container(town: Town) -> None:
    town.plane.kill_everything(wipe=True)
    town.plane.start()


def stop_and_start(town: Town) -> None:
    """The agent is moved on in good order, while the rest goes on."""
    town.stop(AGENT)
    town.start(AGENT, *OPTIONS)


def restart_up(town: Town) -> None:
    """SIGTERM to all of it, in order."""
    town.plane.stop()
    town.plane.start()


TROUBLES: Final[list[Callable[[Town], None]]] = [
    *map(kill_child, ("registry", "snapshots", "gateway", "valkey", "supervisor")),
    *map(pause_child, ("registry", "snapshots", "gateway", "valkey", "supervisor")),
    kill_agent,
    kill_container,
    lose_container,
    kill_up,
    power_off,
    power_off_and_lose_container,
    stop_and_start,
    restart_up,
]


def troubles(dice: random.Random) -> Iterator[Callable[[Town], None]]:
    """All of them in any order, then all in another, so that none is rare."""
    while True:
        yield from dice.sample(TROUBLES, len(TROUBLES))


@pytest.mark.timeout(3600)
def test_whatever_dies_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    """Services, containers, agents, everything: one after the other, in any order."""
    rounds = int(os.environ.get("ROUNDS") or 3)
    dice = random.Random(int(os.environ.get("SEED") or 1))
    with PlaneProcess(tmp_path / "data") as plane:
        town = Town(plane)
        agent = Unresting(town, plane.supervisor, lambda: plane.data.container)
        agent.start()
        for trouble in islice(troubles(dice), rounds):
            after_s = dice.uniform(0.1, 1.5)
            agent.through(partial(trouble, town), trouble.__name__, after_s)
