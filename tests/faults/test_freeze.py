"""A container that cannot reach the registry lets nobody run twice: its agents stand
still before another may have them, and go on when it is back in time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

import pytest

from tests.support.container import Container
from tests.support.diary import Witness, read_diary
from tests.support.plane import PlaneProcess
from tests.support.slow_proxy import SlowProxy
from tests.support.town import DATABASE, Town
from tests.support.waiting import wait_until_sync

pytestmark = [pytest.mark.faults, pytest.mark.timeout(180)]

TTL_S = 4.0


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlaneProcess]:
    """One whose leases end sooner than usual."""
    leases = {
        "TOWNKEEPER_LEASE_TTL": f"{TTL_S:g}s",
        "TOWNKEEPER_HEARTBEAT_INTERVAL": "1s",
    }
    with PlaneProcess(tmp_path_factory.mktemp("freeze") / "d", **leases) as process:
        yield process


class Cut:
    """A town with an agent in a container whose way to the registry can be cut."""

    def __init__(
        self, stack: ExitStack, plane: PlaneProcess, folder: Path, name: str, **env: str
    ) -> None:
        self._stack, self._plane, self._folder = stack, plane, folder
        self.town = Town(plane, name)
        self.witness = Witness(folder / "witness")
        self.way = stack.enter_context(SlowProxy(plane.endpoints.registry))
        self.container = self._join(
            "one", TOWNKEEPER_REGISTRY_ADDR=self.way.address, **env
        )
        noting = ("--witness", str(self.witness.path))
        self.town.started("a", "--tick-s", "0.02", *noting)
        wait_until_sync(
            lambda: self.town.status("a")["generation"], what="a first save", limit_s=30
        )
        self.run = self.town.status("a")

    def _join(self, slot: str, **environ: str) -> Container:
        container = Container(
            self._plane, self._folder / slot, town=self.town.name, slot=slot, **environ
        )
        return self._stack.enter_context(container)

    def another_joins(self) -> Container:
        """Returns when the first one has heard of it."""
        other = self._join("two")
        beats = self._beats()
        wait_until_sync(
            lambda: self._beats() > beats + 1, what="heartbeats", limit_s=30
        )
        return other

    def _beats(self) -> int:
        calls = self._plane.log("registry").splitlines()
        town = f'"{self.town.name}"'
        return sum("/Heartbeat" in line and town in line for line in calls)

    def said(self, event: str) -> bool:
        return event in self.container.log()

    def wait_said(self, event: str) -> None:
        wait_until_sync(lambda: self.said(event), what=event, limit_s=30)

    def wait_ticks(self) -> None:
        """Returns when the agent has committed again."""
        self.witness.news()
        wait_until_sync(self.witness.news, what="it goes on", limit_s=30)


def ticks_of_the_second(witness: Witness) -> int:
    """How often the process that came second has committed."""
    pids = [tick.pid for tick in witness.all()]
    return sum(pid != pids[0] for pid in pids)


def pids_overlap(witness: Witness) -> bool:
    """Whether two processes committed at the same time."""
    times: dict[int, list[float]] = {}
    for tick in witness.all():
        times.setdefault(tick.pid, []).append(tick.committed_at_s)
    spans = sorted((min(each), max(each)) for each in times.values())
    return any(last > first for (_, last), (first, _) in pairwise(spans))


@pytest.mark.parametrize(
    ("policy", "overlap"),
    [
        pytest.param("freeze", False, id="freeze"),
        pytest.param("continue", True, id="continue"),
    ],
)
def test_no_two_run_at_once(
    plane: PlaneProcess, tmp_path: Path, policy: str, overlap: bool
) -> None:
    """Cut off beyond its lease: it stands still before the other one begins."""
    with ExitStack() as stack:
        # A store that cannot be reached either leaves the lease alone to judge by.
        store = stack.enter_context(SlowProxy(plane.endpoints.snapshots))
        cut = Cut(
            *(stack, plane, tmp_path, policy),
            snapshots=store.address,
            TOWNKEEPER_ON_LEASE_UNKNOWN=policy,
        )
        other = cut.another_joins()

        store.hole = cut.way.hole = True
        wait_until_sync(
            lambda: (
                (other.home("a") / DATABASE).exists()
                and len(read_diary(other.home("a") / DATABASE).writers) == 2
            ),
            what="the other one goes on",
            limit_s=60,
        )
        wait_until_sync(
            lambda: ticks_of_the_second(cut.witness) > 50, what="it ticks", limit_s=60
        )

        assert overlap is pids_overlap(cut.witness)
        assert overlap is not cut.said("agent.frozen")
        store.hole = cut.way.hole = False
        wait_until_sync(
            lambda: cut.container.aside("a"), what="the first one learns", limit_s=30
        )


def test_no_two_run_at_once_when_the_supervisor_dies_as_well(
    plane: PlaneProcess, tmp_path: Path
) -> None:
    """The one that comes back cannot ask whose they are: the keeper stops them."""
    with ExitStack() as stack:
        cut = Cut(stack, plane, tmp_path, "dies")
        other = cut.another_joins()

        cut.way.hole = True
        orphans = cut.container.kill_supervisor()
        wait_until_sync(
            lambda: len(other.diary("a").writers) == 2,
            what="the other one goes on",
            limit_s=60,
        )
        wait_until_sync(
            lambda: ticks_of_the_second(cut.witness) > 50, what="it ticks", limit_s=60
        )

        assert not pids_overlap(cut.witness)
        assert [True] == [one.alive for one in orphans]
        cut.way.hole = False
        wait_until_sync(
            lambda: not any(one.alive for one in orphans), what="it ends", limit_s=30
        )


def test_it_goes_on_when_the_registry_is_back_in_time(
    plane: PlaneProcess, tmp_path: Path
) -> None:
    """Nobody had claimed it: the same process, which has lost nothing but time."""
    with ExitStack() as stack:
        cut = Cut(stack, plane, tmp_path, "back")
        # Alive for all that the first one knows, and unable to claim.
        with cut.another_joins().paused():
            cut.way.hole = True
            cut.wait_said("agent.frozen")
            cut.way.hole = False

            cut.wait_said("agent.thawed")
            cut.wait_ticks()

        status = cut.town.status("a")
        assert (cut.run["startedAt"], cut.run["epoch"]) == (
            status["startedAt"],
            status["epoch"],
        )


def test_the_only_one_of_a_town_goes_on(plane: PlaneProcess, tmp_path: Path) -> None:
    """Nobody else would run its agents: a lost registry stops nothing."""
    with ExitStack() as stack:
        cut = Cut(stack, plane, tmp_path, "alone")
        wait_until_sync(lambda: cut._beats() > 1, what="heartbeats", limit_s=30)
        cut.way.hole = True
        cut.wait_said("heartbeat.failed")
        failed_at = cut.witness.last()
        assert failed_at is not None

        def later() -> bool:
            tick = cut.witness.last()
            return tick is not None and (
                tick.committed_at_s > failed_at.committed_at_s + 2 * TTL_S
            )

        wait_until_sync(later, what="two TTLs pass", limit_s=60)
        assert not cut.said("agent.frozen")
