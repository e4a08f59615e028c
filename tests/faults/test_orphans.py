"""Only the supervisor dies: its agents live on, writing, with nobody to save them."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from services.cli.identity import descendants
from services.supervisor.process_tree import members
from tests.support.container import Container
from tests.support.diary import Witness, read_diary
from tests.support.plane import PlaneProcess
from tests.support.slow_proxy import SlowProxy
from tests.support.town import DATABASE, Town
from tests.support.waiting import wait_until_sync

pytestmark = [pytest.mark.faults, pytest.mark.timeout(120)]

AGENT = "orphan"


def test_the_successor_saves_then_ends_what_is_left_and_resumes(
    plane: PlaneProcess, tmp_path: Path
) -> None:
    """Nothing that the orphan committed is lost, and no process of the old run is left.

    `up` restarts the supervisor; the orphan ignores the end of its input, and a child
    of it has left its session and ignores SIGTERM.
    """
    town, witness = Town(plane), Witness(tmp_path / "witness")
    options = ("--tick-s", "0.01", "--stubborn", "--witness", str(witness.path))
    town.started(AGENT, *options)
    key = town.said(AGENT, "before")
    town.wait_settled(AGENT)
    supervisor = plane.child("supervisor")
    orphans = [one for one in descendants([supervisor]) if one != supervisor]
    run = plane.wait_running(AGENT)
    mark = run.name.rpartition("/")[2]
    assert len(orphans) == len(members([mark])) == 2

    seen = len(witness.all())
    supervisor.send(signal.SIGKILL)
    assert supervisor.wait(10)
    # It lives on: while nobody looks after it, it commits.
    wait_until_sync(lambda: len(witness.all()) > seen, what="the orphan writes")
    status = town.wait_status(AGENT, "running", epoch=run.epoch + 1)

    assert [] == members([mark])
    assert [False, False] == [one.alive for one in orphans]
    committed = witness.all()
    old_pid = committed[0].pid
    last = max(one.number for one in committed if one.pid == old_pid)
    assert status["resumed"]
    key_2 = town.said(AGENT, "after")
    town.wait_settled(AGENT)
    live = read_diary(plane.data.container / "agents" / AGENT / "home" / DATABASE)
    saved = town.saved(AGENT)
    for diary in (live, saved):
        assert [] == diary.gaps
        assert [key, key_2] == diary.ids
        assert (old_pid, 2) == (diary.writers[0], len(diary.writers))
    # What the orphan committed last, and what follows on it, is one row of numbers.
    new_pid = live.writers[1]
    first_new = min(one.number for one in witness.all() if one.pid == new_pid)
    assert last <= first_new - 1 <= last + 1
    assert 200 == town.stop(AGENT).status_code


def test_a_successor_waits_for_a_store_that_is_away(
    plane: PlaneProcess, tmp_path: Path
) -> None:
    """What the orphan writes meanwhile is on this disk alone; none of it is lost."""
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
        container.start()
        seen = len(witness.all())
        failed = '"event": "agent.start_failed"'
        wait_until_sync(
            lambda: len(witness.all()) > seen and failed in container.log(),
            what="the orphan writes, and its successor tries to start",
            limit_s=30,
        )
        assert [True, True] == [one.alive for one in orphans]
        way.refusing = False
        town.wait_status("a", "running", limit_s=60)

        assert [False, False] == [one.alive for one in orphans]
        old_pid = witness.all()[0].pid
        last = max(one.number for one in witness.all() if one.pid == old_pid)
        wait_until_sync(
            lambda: 2 == len({one.pid for one in witness.all()}),
            what="the resumed agent writes",
            limit_s=30,
        )
        assert 200 == town.stop("a").status_code
        saved = town.saved("a")
        assert ([], True) == (saved.gaps, last <= saved.ticks[-1])
        assert (old_pid, 2) == (saved.writers[0], len(saved.writers))
