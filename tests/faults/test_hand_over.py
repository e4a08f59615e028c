"""A container that is told to go hands its agents on: each belongs to somebody at every
moment, and goes on there with all that it had."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.support.container import Container
from tests.support.diary import Witness
from tests.support.plane import PlaneProcess
from tests.support.town import Town
from tests.support.waiting import wait_until_sync
from townkeeper.registry.v1 import registry_pb2, resources_pb2

AGENTS = tuple(f"agent-{number}" for number in range(6))
TOWN = "relay"


@contextmanager
def watching(plane: PlaneProcess) -> Iterator[list[resources_pb2.Agent]]:
    """Every state of a record that a watcher is shown meanwhile."""
    shown: list[resources_pb2.Agent] = []
    request = registry_pb2.WatchAgentsRequest(parent=f"towns/{TOWN}")
    stream = plane.registry(town=TOWN).WatchAgents(request)
    synced = threading.Event()

    def follow() -> None:
        try:
            for step in stream:
                if step.HasField("changed"):
                    shown.append(step.changed)
                if step.synced:
                    synced.set()
        except grpc.RpcError:
            pass  # cancelled below

    reader = threading.Thread(target=follow)
    reader.start()
    try:
        assert synced.wait(30)
        yield shown
    finally:
        stream.cancel()
        reader.join()


@pytest.mark.faults
@pytest.mark.timeout(180)
def test_who_goes_hands_on(plane: PlaneProcess, tmp_path: Path) -> None:
    """To those that stay, as many as each has room for, under the next epoch."""
    town = Town(plane, TOWN)
    with ExitStack() as stack:

        def join(slot: str, capacity: str = "") -> Container:
            # An empty variable is left out.
            settings = {"TOWNKEEPER_CAPACITY": capacity}
            return stack.enter_context(
                Container(plane, tmp_path / slot, town=TOWN, slot=slot, **settings)
            )

        one = join("one")
        witnesses = {agent: Witness(tmp_path / agent) for agent in AGENTS}
        for agent, witness in witnesses.items():
            noting = ("--witness", str(witness.path))
            town.started(agent, "--tick-s", "0.1", *noting)
            wait_until_sync(witness.last, what=f"{agent} has written")
        before = {agent: town.status(agent) for agent in AGENTS}
        stay = {"two": join("two", "2"), "three": join("three", "4")}
        with watching(plane) as shown:
            assert 0 == one.stop()
            after = {agent: goes_on(town, agent, before[agent]) for agent in AGENTS}

        assert {"one"} == {run["instanceId"] for run in before.values()}
        holders = Counter(run["instanceId"] for run in after.values())
        assert {"two": 2, "three": 4} == holders
        assert set(AGENTS) <= {each.name.rpartition("/")[2] for each in shown}
        assert [] == [each.name for each in shown if not each.lease.live]
        for agent, witness in witnesses.items():
            wait_until_sync(partial(writes_again, witness), what=f"{agent} goes on")
            assert [] == stay[after[agent]["instanceId"]].diary(agent).gaps
            numbers = [tick.number for tick in witness.all()]
            assert sorted(set(numbers)) == numbers


def writes_again(witness: Witness) -> bool:
    """Whether a second process has committed."""
    return 2 == len({tick.pid for tick in witness.all()})


def goes_on(town: Town, agent: str, before: dict[str, Any]) -> dict[str, Any]:
    """Its status in the next place, where nobody but the heir has started it."""
    epoch = before["epoch"] + 1
    return town.wait_status(agent, "running", epoch=epoch, resumed=True)
