"""Two containers and one agent: whoever lost it changes nothing any more."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.chassis.errors import Reason
from tests.support.container import Container
from tests.support.diary import Diary, read_diary
from tests.support.plane import PlaneProcess
from tests.support.slow_proxy import SlowProxy
from tests.support.town import DATABASE, Town
from tests.support.waiting import wait_until_sync

pytestmark = [pytest.mark.faults, pytest.mark.timeout(120)]

TICKING = ("--tick-s", "0.02")


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlaneProcess]:
    """One whose leases end sooner than usual."""
    root = tmp_path_factory.mktemp("fencing") / "data"
    leases = {
        "TOWNKEEPER_LEASE_TTL": "3s",
        "TOWNKEEPER_HEARTBEAT_INTERVAL": "1s",
    }
    with PlaneProcess(root, **leases) as process:
        yield process


def generations_of(town: Town, epoch: int) -> set[int]:
    """The generations that were committed under an epoch."""
    return {one.generation for one in town.generations("a") if one.epoch == epoch}


def wait_for_generation_of(town: Town, epoch: int) -> None:
    wait_until_sync(
        lambda: generations_of(town, epoch), what=f"a save of epoch {epoch}", limit_s=30
    )


def fenced_uploads(plane: PlaneProcess, town: str) -> list[str]:
    """What the snapshot service has logged of uploads that it refused."""
    return [
        line
        for line in plane.log("snapshots").splitlines()
        if f'"{town}"' in line and "UploadSnapshot" in line and "LEASE_FENCED" in line
    ]


def wait_until_ended(container: Container, agent_pid: int) -> None:
    """Returns when the agent's process is gone and its database set aside."""

    def ended() -> bool:
        pids = {one.pid for one in container.processes()} if container.alive else set()
        return agent_pid not in pids and bool(container.aside("a"))

    wait_until_sync(ended, what="the fenced agent is ended", limit_s=30)


def test_a_paused_owner_commits_nothing(plane: PlaneProcess, tmp_path: Path) -> None:
    """Longer than its lease: the next owner goes on, and the old one finds out."""
    town = Town(plane, "pause")
    with (
        Container(plane, tmp_path / "one", town="pause", slot="one") as one,
        Container(plane, tmp_path / "two", town="pause", slot="two") as two,
    ):
        town.started("a", *TICKING)
        old = town.status("a")
        assert "one" == old["instanceId"]
        wait_for_generation_of(town, old["epoch"])
        (pid,) = read_diary(one.home("a") / DATABASE).writers

        with one.paused():
            refusals = two.start_when_free("a")
            new = town.status("a")
            wait_for_generation_of(town, new["epoch"])
            before = generations_of(town, old["epoch"])
        wait_until_ended(one, pid)
        head = town.generations("a")[0].generation
        wait_until_sync(
            lambda: town.generations("a")[0].generation > head, what="saves go on"
        )

        assert {Reason.LEASE_HELD} == refusals
        assert ("two", True) == (new["instanceId"], old["epoch"] < new["epoch"])
        assert before == generations_of(town, old["epoch"])
        assert_one_history(town.saved("a"), first=pid, writers=2)
        # What the old owner had and could not save is kept for a person to look at.
        (shelf,) = one.aside("a")
        assert "0001-fenced" == shelf.name
        assert (pid,) == read_diary(shelf / DATABASE).writers

        # It may have the agent again, and then goes on from what is saved.
        assert 200 == town.stop("a").status_code
        one.start_when_free("a")
        latest = town.status("a")["epoch"]
        wait_for_generation_of(town, latest)
        assert_one_history(town.saved("a"), first=pid, writers=3)


def assert_one_history(diary: Diary, *, first: int, writers: int) -> None:
    """Every owner went on where the one before had been saved, and none came back."""
    assert [] == diary.gaps
    assert (first, writers) == (diary.writers[0], len(diary.writers))


def test_an_owner_cut_off_from_the_registry_is_fenced_by_its_next_save(
    plane: PlaneProcess, tmp_path: Path
) -> None:
    """No heartbeat can tell it; the snapshot service does, and no clock is asked."""
    town = Town(plane, "cut")
    with (
        SlowProxy(plane.endpoints.registry) as way,
        Container(
            plane,
            tmp_path / "one",
            town="cut",
            slot="one",
            TOWNKEEPER_REGISTRY_ADDR=way.address,
            # Else it would stand still by then, and have nothing to save.
            TOWNKEEPER_ON_LEASE_UNKNOWN="continue",
        ) as one,
    ):
        town.started("a", *TICKING)
        old = town.status("a")
        wait_for_generation_of(town, old["epoch"])
        (pid,) = read_diary(one.home("a") / DATABASE).writers
        with Container(plane, tmp_path / "two", town="cut", slot="two") as two:
            way.hole = True
            two.start_when_free("a")
            new = town.status("a")
            wait_until_ended(one, pid)
            fenced = generations_of(town, old["epoch"])
            wait_for_generation_of(town, new["epoch"])
            saved = town.saved("a")

        assert fenced == generations_of(town, old["epoch"])
        # The new owner's first generation came after the old one's last.
        assert max(fenced) < min(generations_of(town, new["epoch"]))
        assert_one_history(saved, first=pid, writers=2)
        assert one.alive


def test_a_save_that_was_on_its_way_is_refused_when_it_arrives(
    plane: PlaneProcess, tmp_path: Path
) -> None:
    """Sent by the old owner, held up by the network, and right in all but its epoch:
    the new owner has the agent, and has not saved anything yet."""
    town = Town(plane, "late")
    with (
        SlowProxy(plane.endpoints.snapshots) as old_way,
        SlowProxy(plane.endpoints.snapshots) as new_way,
        Container(
            plane, tmp_path / "one", town="late", slot="one", snapshots=old_way.address
        ) as one,
        Container(
            plane, tmp_path / "two", town="late", slot="two", snapshots=new_way.address
        ) as two,
    ):
        town.started("a", *TICKING)
        old = town.status("a")
        wait_for_generation_of(town, old["epoch"])
        (pid,) = read_diary(one.home("a") / DATABASE).writers
        old_way.to_server.hole = True
        wait_until_sync(lambda: town.status("a")["lagSeconds"] > 2, what="one is held")
        with one.paused():
            two.start_when_free("a")
            new_way.to_server.hole = True
            head = town.generations("a")[0].generation
            old_way.to_server.hole = False
            wait_until_sync(
                lambda: fenced_uploads(plane, "late"), what="it arrives", limit_s=30
            )
            assert head == town.generations("a")[0].generation
            new_way.to_server.hole = False
        wait_until_ended(one, pid)
        new = town.status("a")
        wait_for_generation_of(town, new["epoch"])

        assert ("two", True) == (new["instanceId"], old["epoch"] < new["epoch"])
        assert_one_history(town.saved("a"), first=pid, writers=2)


def test_a_new_boot_in_the_same_slot_fences_the_one_before(
    plane: PlaneProcess, tmp_path: Path
) -> None:
    """At once, no lease is waited for; the old boot ends its agents and itself."""
    town = Town(plane, "slot")
    with Container(plane, tmp_path / "one", town="slot", slot="same") as one:
        town.started("a", *TICKING)
        old = town.status("a")
        wait_for_generation_of(town, old["epoch"])
        (pid,) = read_diary(one.home("a") / DATABASE).writers
        agents = [each for each in one.processes() if each.pid == pid]
        with (
            one.paused(),
            Container(plane, tmp_path / "two", town="slot", slot="same"),
        ):
            new = town.wait_status("a", "running", epoch=old["epoch"] + 1)
            wait_for_generation_of(town, new["epoch"])
            before = generations_of(town, old["epoch"])
            for each in one.processes():
                each.send(signal.SIGCONT)

            assert 1 == one.wait()
            assert [False] == [each.alive for each in agents]
            assert ["0001-fenced"] == [shelf.name for shelf in one.aside("a")]
            head = town.generations("a")[0].generation
            wait_until_sync(
                lambda: town.generations("a")[0].generation > head, what="saves go on"
            )
            assert before == generations_of(town, old["epoch"])
            assert_one_history(town.saved("a"), first=pid, writers=2)


def test_an_orphan_whose_agent_runs_elsewhere_is_ended(
    plane: PlaneProcess, tmp_path: Path
) -> None:
    """Its supervisor's successor finds the lease with another: it ends the orphan,
    commits nothing of it, and keeps its file."""
    town = Town(plane, "elsewhere")
    with (
        Container(plane, tmp_path / "one", town="elsewhere", slot="one") as one,
        Container(plane, tmp_path / "two", town="elsewhere", slot="two") as two,
    ):
        town.started("a", *TICKING, "--stubborn")
        assert "one" == town.status("a")["instanceId"]
        wait_until_sync(lambda: town.generations("a"), what="a first save")
        with one.nobody_keeps():
            orphans = one.kill_supervisor()
            two.start_when_free("a")
            epoch = town.status("a")["epoch"]
            assert [True, True] == [each.alive for each in orphans]
        one.wait_ready()

        wait_until_sync(
            lambda: not any(each.alive for each in orphans),
            what="the orphans are ended",
            limit_s=30,
        )
        assert ("two", epoch) == (
            town.status("a")["instanceId"],
            town.status("a")["epoch"],
        )
        (old_pid,) = read_diary(one.home("a") / DATABASE).writers
        wait_until_sync(
            lambda: 2 == len(read_diary(two.home("a") / DATABASE).writers),
            what="the resumed agent writes",
            limit_s=30,
        )
        assert 200 == town.stop("a").status_code
        saved = town.saved("a")
        assert ([], old_pid, 2) == (saved.gaps, saved.writers[0], len(saved.writers))
