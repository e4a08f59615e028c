"""A container that is emptied: in its budget, whatever its agents are at, with a
receipt for each and nothing lost or left over."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final

import pytest
from google.protobuf.duration_pb2 import Duration

from services.chassis.errors import Reason, ServiceError, rpc_errors
from tests.support.container import Container
from tests.support.plane import PlaneProcess
from tests.support.town import PENDING, Town
from tests.support.waiting import wait_until_sync
from townkeeper.supervisor.v1 import supervisor_pb2

TOWN: Final = "sinking"
# 50 of it are for the ends.
BUDGET_S: Final = 65
EACH: Final = 4
KINDS: Final = {
    "idle": (),
    "busy": ("--tick-s", "0.05"),
    "working": ("--think-s", "5"),
    "stuck": ("--think-s", "3600"),
    # With a child in a session of its own, and neither minds SIGTERM.
    "unwilling": ("--stubborn", "--deaf", "--tick-s", "0.1"),
}
TALKING: Final = ("working", "stuck")
# Longer than a lease lives after its last heartbeat.
TURN_S: Final = 14


def took(container: Container, agent: str, message: str) -> bool:
    """Whether it has stored the message."""
    return message in container.diary(agent).ids


@pytest.mark.faults
@pytest.mark.timeout(180)
def test_twenty_agents_leave_within_the_budget(
    plane: PlaneProcess, tmp_path: Path
) -> None:
    """Idle, writing, in a turn, in a turn without end, and deaf to all asking."""
    town = Town(plane, TOWN)
    agents = {f"{kind}-{number}": kind for kind in KINDS for number in range(EACH)}
    with Container(plane, tmp_path / "c", town=TOWN, slot="one") as container:
        for agent, kind in agents.items():
            town.started(agent, *KINDS[kind])
        asked = {
            agent: town.said(agent, "think", f"to-{agent}")
            for agent, kind in agents.items()
            if kind in TALKING
        }
        for agent, message in asked.items():
            wait_until_sync(partial(took, container, agent, message), what=agent)
        request = supervisor_pb2.DrainRequest(
            parent=f"towns/{TOWN}", budget=Duration(seconds=BUDGET_S)
        )

        for agent, message in asked.items():
            assert PENDING == town.messages(agent)[message].state

        receipts = list(container.supervisor().Drain(request, timeout=BUDGET_S))

        assert [] == container.agents()
        names = [one.run.name.split("/")[3] for one in receipts]
        assert sorted(agents) == sorted(names)
        # Those that had nothing to do waited for nobody.
        assert {"idle", "busy"} == {agents[each] for each in names[: 2 * EACH]}
        assert list(reversed(range(20))) == [one.remaining_count for one in receipts]
        assert {"evicted"} == {one.run.exit_reason for one in receipts}
        for agent, kind in agents.items():
            left = container.diary(agent)
            assert left == town.saved(agent), f"{agent} has more than was saved"
            assert not left.gaps
            assert bool(left.ticks) is (kind in ("busy", "unwilling"))
        for agent, message in asked.items():
            waits = PENDING == town.messages(agent)[message].state
            assert waits is (agents[agent] == "stuck"), agent
        start = supervisor_pb2.StartAgentRequest(name=town.path_of("idle-0"))
        with pytest.raises(ServiceError) as refused, rpc_errors():
            container.supervisor().StartAgent(start)
        assert Reason.SHUTTING_DOWN is refused.value.reason
        assert 0 == container.stop()


@pytest.mark.faults
@pytest.mark.timeout(120)
def test_sigterm_waits_for_a_turn(plane: PlaneProcess, tmp_path: Path) -> None:
    """As long as the budget of the settings has room for it."""
    town = Town(plane, "patient")
    with Container(
        *(plane, tmp_path / "c"),
        town="patient",
        slot="one",
        TOWNKEEPER_DRAIN_BUDGET="100s",
    ) as container:
        town.started("a", "--think-s", "5")
        message = town.said("a", "think", "key")
        wait_until_sync(partial(took, container, "a", message), what="its turn")

        assert 0 == container.stop()

        assert [] == town.saved("a").unanswered
        assert PENDING != town.messages("a")[message].state


@pytest.mark.faults
@pytest.mark.timeout(120)
def test_who_drains_is_heard_of_to_the_end(plane: PlaneProcess, tmp_path: Path) -> None:
    """Longer than a lease lives without heartbeats: nobody else may have its agents,
    and what they did meanwhile counts."""
    town = Town(plane, "long")
    with (
        Container(
            *(plane, tmp_path / "one"),
            town="long",
            slot="one",
            TOWNKEEPER_DRAIN_BUDGET="100s",
        ) as one,
        ThreadPoolExecutor(1) as pool,
    ):
        town.started("a", "--think-s", str(TURN_S))
        message = town.said("a", "think", "key")
        wait_until_sync(partial(took, one, "a", message), what="its turn")
        before = town.status("a")
        with Container(plane, tmp_path / "two", town="long", slot="two") as two:
            draining = pool.submit(one.stop)
            refusals = two.start_when_free("a")
            assert 0 == draining.result(60)
            after = town.status("a")

        assert {Reason.LEASE_HELD} == refusals
        assert ("one", "two") == (before["instanceId"], after["instanceId"])
        assert before["epoch"] + 1 == after["epoch"]
        assert ([message], []) == (town.saved("a").ids, town.saved("a").unanswered)
        assert PENDING != town.messages("a")[message].state
