"""Stop, then start at once, while the store takes 2 s for everything."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from services.chassis.errors import Reason
from tests.support.container import Container
from tests.support.diary import read_diary
from tests.support.plane import PlaneProcess
from tests.support.slow_proxy import SlowProxy
from tests.support.stop_and_start import stop_and_start
from tests.support.town import DATABASE, Town

pytestmark = pytest.mark.faults

DELAY_S = 2.0


@contextmanager
def slow_container(
    plane: PlaneProcess, root: Path, town: str, **environ: str
) -> Iterator[tuple[Container, SlowProxy]]:
    """A container whose way to the snapshot service can be made slow."""
    with (
        SlowProxy(plane.endpoints.snapshots) as proxy,
        Container(
            plane, root, town=town, slot="slow", snapshots=proxy.address, **environ
        ) as container,
    ):
        yield container, proxy


@pytest.mark.timeout(120)
def test_a_start_right_after_a_stop_has_the_whole_history(
    plane: PlaneProcess, tmp_path: Path
) -> None:
    """D1: what the agent wrote last is neither overtaken by the start nor lost."""
    with slow_container(plane, tmp_path / "c", "slow-diary") as (container, proxy):
        town = Town(plane, "slow-diary")
        town.started("a", "--last-words")
        keys = [town.said("a", f"message {number}") for number in range(3)]
        town.wait_settled("a")
        before = town.generations("a")[0].generation

        proxy.delay_s = DELAY_S
        stopped, started, ended = stop_and_start(
            town, "a", lambda: town.start("a", "--last-words")
        )
        proxy.delay_s = 0.0

        assert (200, 201) == (stopped.status_code, started.status_code)
        assert ["stop", "start"] == ended
        record = started.json()
        assert record["resumed"]
        # The last words were saved by the stop, before anything was hydrated.
        assert before < record["generation"]
        live = read_diary(container.home("a") / DATABASE)
        assert (keys, 1) == (live.ids, live.last_words)
        keys.append(town.said("a", "and one more"))
        town.wait_settled("a")
        saved = town.saved("a")
        assert (keys, [], 1) == (saved.ids, saved.unanswered, saved.last_words)
        assert [] == container.aside("a")


@pytest.mark.timeout(120)
def test_a_start_elsewhere_waits_for_the_save_of_the_stop(
    plane: PlaneProcess, tmp_path: Path
) -> None:
    """D1 over two containers: the second never goes on from an older state."""
    name = "slow-move"
    with slow_container(plane, tmp_path / "one", name) as (_, proxy):
        town = Town(plane, name)
        town.started("a", "--last-words")
        key = town.said("a", "hello")
        town.wait_settled("a")
        with (
            Container(plane, tmp_path / "two", town=name, slot="other") as other,
            ThreadPoolExecutor(1) as pool,
        ):
            proxy.delay_s = DELAY_S
            stopping = pool.submit(town.stop, "a")
            town.wait_status("a", "stopping")
            refusals = other.start_when_free("a")
            assert 200 == stopping.result(60).status_code

            live = read_diary(other.home("a") / DATABASE)

    assert {Reason.LEASE_HELD} == refusals
    assert ([key], 1) == (live.ids, live.last_words)
