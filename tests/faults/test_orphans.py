"""Only the supervisor dies: its agents live on, and the next one goes on with them."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from services.cli.identity import Identity, descendants
from services.supervisor.process_tree import members
from tests.support.children import kept_by
from tests.support.container import Container
from tests.support.diary import Witness, read_diary
from tests.support.plane import PlaneProcess
from tests.support.slow_proxy import SlowProxy
from tests.support.town import DATABASE, Town
from tests.support.waiting import wait_until_sync

pytestmark = [pytest.mark.faults, pytest.mark.timeout(120)]

AGENT = "orphan"


def tree_of(supervisor: Identity) -> list[Identity]:
    """All below it, itself left out."""
    return [one for one in descendants([supervisor]) if one != supervisor]


def test_the_successor_goes_on_with_the_same_processes(
    plane: PlaneProcess, tmp_path: Path
) -> None:
    """Under the next epoch, with the messages of before and after, and no gap in what
    is saved. The orphan has a child that has left its session; a stop ends both."""
    town, witness = Town(plane), Witness(tmp_path / "witness")
    options = ("--tick-s", "0.01", "--stubborn", "--witness", str(witness.path))
    town.started(AGENT, *options)
    before = town.said(AGENT, "before")
    town.wait_settled(AGENT)
    run = plane.wait_running(AGENT)
    supervisor = plane.child("supervisor")
    agent = tree_of(supervisor)
    assert 2 == len(agent)

    seen = len(witness.all())
    supervisor.send(signal.SIGKILL)
    assert supervisor.wait(10)
    waiting = town.said(AGENT, "while nobody is there")
    status = town.wait_status(AGENT, "running", epoch=run.epoch + 1)

    assert agent == [one for one in agent if one.alive]
    back = plane.wait_running(AGENT)
    assert (run.name, run.pid) == (back.name, back.pid)
    assert run.start_time == back.start_time
    wait_until_sync(
        lambda: town.generations(AGENT)[0].generation > status["generation"],
        what="saves go on",
    )
    after = town.said(AGENT, "after")
    town.wait_settled(AGENT)
    assert len(witness.all()) > seen
    live = read_diary(plane.data.container / "agents" / AGENT / "home" / DATABASE)
    saved = town.saved(AGENT)
    for diary in (live, saved):
        assert [] == diary.gaps
        assert [before, waiting, after] == diary.ids
        assert (run.pid,) == diary.writers
    assert 200 == town.stop(AGENT).status_code
    assert [] == members([run.name.rpartition("/")[2]])
    assert [False, False] == [one.alive for one in agent]


def test_one_that_ends_after_that_is_brought_back(plane: PlaneProcess) -> None:
    """Its new supervisor is not its parent, and sees its end all the same."""
    town = Town(plane)
    town.started("mortal", "--tick-s", "0.02")
    first = plane.wait_running("mortal")
    supervisor = plane.child("supervisor")
    supervisor.send(signal.SIGKILL)
    assert supervisor.wait(10)
    town.wait_status("mortal", "running", epoch=first.epoch + 1)
    [agent] = [one for one in plane.processes() if one.pid == first.pid]

    agent.send(signal.SIGKILL)

    wait_until_sync(
        lambda: (run := plane.find_run("mortal")) and run.pid not in (0, first.pid),
        what="another run",
        limit_s=30,
    )
    assert 200 == town.stop("mortal").status_code


def test_the_supervisor_may_die_again_and_again(plane: PlaneProcess) -> None:
    """Also before the one that came after has done anything."""
    town = Town(plane)
    town.started("patient", "--tick-s", "0.02")
    first = plane.wait_running("patient")

    for _ in range(3):
        supervisor = plane.child("supervisor")
        supervisor.send(signal.SIGKILL)
        assert supervisor.wait(10)
        kept_by(plane.keeper)
    key = town.said("patient", "there?")
    town.wait_settled("patient", limit_s=60)

    run = plane.wait_running("patient")
    assert (first.name, first.pid) == (run.name, run.pid)
    assert 200 == town.stop("patient").status_code
    saved = town.saved("patient")
    assert ([], [key], (first.pid,)) == (saved.gaps, saved.ids, saved.writers)


def test_a_keeper_that_dies_takes_all_with_it(plane: PlaneProcess) -> None:
    """As the first process of a container; `up` starts another, on the same disk."""
    town = Town(plane)
    town.started("kept", "--tick-s", "0.02")
    first, keeper = plane.wait_running("kept"), plane.keeper
    agent = tree_of(plane.child("supervisor"))
    assert agent

    keeper.send(signal.SIGKILL)

    wait_until_sync(
        lambda: not any(one.alive for one in agent), what="all end", limit_s=30
    )
    wait_until_sync(
        lambda: (run := plane.find_run("kept")) and run.pid not in (0, first.pid),
        what="another run",
        limit_s=60,
    )
    assert 200 == town.stop("kept").status_code
    assert [] == town.saved("kept").gaps


def test_a_store_that_is_away_is_waited_for(
    plane: PlaneProcess, tmp_path: Path
) -> None:
    """What the orphan writes meanwhile is on this disk alone; none of it is lost, and
    it is not ended for it."""
    town, witness = Town(plane, "alone"), Witness(tmp_path / "witness")
    options = ("--tick-s", "0.02", "--stubborn", "--witness", str(witness.path))
    with (
        SlowProxy(plane.endpoints.snapshots) as way,
        Container(
            plane, tmp_path / "c", town="alone", slot="one", snapshots=way.address
        ) as container,
    ):
        town.started("a", *options)
        wait_until_sync(lambda: town.generations("a"), what="a first save")
        way.refusing = True
        way.cut()
        orphans = container.kill_supervisor()
        container.wait_ready()
        seen = len(witness.all())
        failed = '"event": "agent.start_failed"'
        wait_until_sync(
            lambda: len(witness.all()) > seen and failed in container.log(),
            what="the orphan writes, and its successor tries to go on with it",
            limit_s=30,
        )
        assert [True, True] == [one.alive for one in orphans]
        way.refusing = False
        town.wait_status("a", "running", limit_s=60)

        assert [True, True] == [one.alive for one in orphans]
        last = witness.all()[-1].number
        assert 200 == town.stop("a").status_code
        saved = town.saved("a")
        assert ([], 1) == (saved.gaps, len(saved.writers))
        assert last <= saved.ticks[-1]
