"""What stores is away for a while: agents work on, and nothing acknowledged is lost."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from services.cli.identity import Identity
from tests.support.diary import Diary, read_diary
from tests.support.plane import PlaneProcess
from tests.support.poster import Poster, keys
from tests.support.town import DATABASE, PENDING, Town
from tests.support.waiting import wait_until_sync
from townkeeper.registry.v1 import resources_pb2

pytestmark = [pytest.mark.faults, pytest.mark.timeout(180)]

AWAY_S = 10.0
DEAD_S = 5.0
TICKING = ("--tick-s", "0.02", "--last-words")
DELIVERED = resources_pb2.Message.STATE_DELIVERED


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlaneProcess]:
    """One to be hurt; every test leaves it whole again."""
    with PlaneProcess(tmp_path_factory.mktemp("outages") / "data") as process:
        yield process


@contextmanager
def unattended(plane: PlaneProcess) -> Iterator[None]:
    """Nobody restarts what dies within the block."""
    plane.up.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        plane.up.send_signal(signal.SIGCONT)


@contextmanager
def stopped(process: Identity) -> Iterator[None]:
    """The process stands still within the block, its connections open."""
    process.send(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send(signal.SIGCONT)


def live(plane: PlaneProcess, agent: str) -> Diary:
    """The database on the container's disk."""
    path = plane.data.container / "agents" / agent / "home" / DATABASE
    return read_diary(path)


def wait_for_save(town: Town, agent: str) -> None:
    """Returns when a first save was acknowledged."""
    wait_until_sync(
        lambda: town.status(agent)["generation"] > 0, what="a first save", limit_s=30
    )


def kill(plane: PlaneProcess, name: str) -> None:
    """SIGKILL to a service; returns when `up` has started it again."""
    dead = plane.child(name)
    dead.send(signal.SIGKILL)
    assert dead.wait(10)
    wait_until_sync(
        lambda: plane.child(name) != dead, what=f"{name} is restarted", limit_s=30
    )


def wait_for_lag(town: Town, agent: str, least_s: float) -> dict[str, Any]:
    """The agent's status, once its changes have been waiting for so long."""
    seen: list[float] = []

    def waiting() -> dict[str, Any] | None:
        found = town.status(agent)
        seen.append(found["lagSeconds"])
        return found if found["lagSeconds"] >= least_s else None

    found = wait_until_sync(waiting, what=f"a lag of {least_s} s", limit_s=60)
    assert found is not None
    assert sorted(seen) == seen, "the lag only grows"
    return found


def test_agents_work_on_while_the_store_does_not_answer(plane: PlaneProcess) -> None:
    """The lag shows; a turn is finished but not acknowledged; then all catches up."""
    town = Town(plane)
    town.started("worker", *TICKING)
    wait_for_save(town, "worker")

    with stopped(plane.child("snapshots")):
        head = town.status("worker")["generation"]
        before = len(live(plane, "worker").ticks)
        key = town.said("worker", "while the store is away")
        wait_until_sync(
            lambda: live(plane, "worker").ids == [key], what="it hears", limit_s=30
        )
        status = wait_for_lag(town, "worker", AWAY_S)
        after = len(live(plane, "worker").ticks)
        state = town.messages("worker")[key].state
        written = live(plane, "worker")

    assert "running" == status["status"]
    # One save's answer may have been on its way already.
    assert status["generation"] <= head + 1
    assert PENDING == state
    # Committed all the while: a hundred ticks are a fifth of what there was time for.
    assert after - before > 100
    town.wait_settled("worker")
    wait_until_sync(
        lambda: town.status("worker")["lagSeconds"] < 2, what="it has caught up"
    )
    saved = town.saved("worker")
    assert [key] == saved.ids
    assert [] == saved.gaps
    assert written.ticks == saved.ticks[: len(written.ticks)]
    assert DELIVERED == town.messages("worker")[key].state
    assert status["startedAt"] == town.status("worker")["startedAt"]
    assert 200 == town.stop("worker").status_code


def test_a_stop_without_a_store_is_pending_until_it_is_back(
    plane: PlaneProcess,
) -> None:
    """The process is gone, its last state waits on the disk, and so does a start."""
    town = Town(plane)
    town.started("leaver", *TICKING)
    wait_for_save(town, "leaver")
    store = plane.child("snapshots")

    with ThreadPoolExecutor(1) as pool:
        with unattended(plane):
            store.send(signal.SIGKILL)
            assert store.wait(10)
            gone_at = time.monotonic()
            pending = town.stop("leaver")
            written = live(plane, "leaver")
            refused = town.stop("leaver")
            status = wait_for_lag(town, "leaver", DEAD_S / 2)
            starting = pool.submit(town.start, "leaver", *TICKING)
            wait_until_sync(
                lambda: time.monotonic() > gone_at + DEAD_S,
                what="the outage is over",
                limit_s=2 * DEAD_S,
            )
            assert not starting.done()
        started = starting.result(120)

    for answer in (pending, refused):
        assert 503 == answer.status_code
        assert "SAVE_PENDING" == answer.headers["x-townkeeper-reason"]
        assert "retry-after" in answer.headers
    assert "stopping" == status["status"]
    assert 1 == written.last_words
    assert (201, True) == (started.status_code, started.json().get("resumed"))
    wait_until_sync(lambda: len(live(plane, "leaver").writers) == 2, what="it writes")
    assert 200 == town.stop("leaver").status_code
    saved = town.saved("leaver")
    assert written.ticks == saved.ticks[: len(written.ticks)]
    assert ([], 2) == (saved.gaps, saved.last_words)


def test_a_pending_stop_finishes_by_itself(plane: PlaneProcess) -> None:
    """Nobody has to ask again: the lease is given back when the save is durable."""
    town = Town(plane)
    town.started("patient", *TICKING)
    wait_for_save(town, "patient")
    store = plane.child("snapshots")

    with unattended(plane):
        store.send(signal.SIGKILL)
        assert store.wait(10)
        assert 503 == town.stop("patient").status_code
        written = live(plane, "patient")
    status = town.wait_status("patient", "exited", limit_s=60)

    assert "stopped" == status["exitReason"]
    saved = town.saved("patient")
    assert (written.ticks, 1) == (saved.ticks, saved.last_words)


def test_services_outlive_the_death_of_valkey(plane: PlaneProcess) -> None:
    """Killed and restarted by `up`, again and again: the services reconnect without a
    restart of theirs, and no message that was accepted is lost or doubled."""
    town = Town(plane)
    town.started("listener", "--tick-s", "0.05")
    services = {
        name: plane.child(name)
        for name in ("registry", "snapshots", "gateway", "supervisor")
    }
    started_at = town.status("listener")["startedAt"]

    with Poster(town, "listener", keys(), patient=True) as poster:
        for _ in range(3):
            kill(plane, "valkey")
            poster.wait_for_more()
    town.wait_settled("listener")

    messages, saved = town.messages("listener"), town.saved("listener")
    assert [] == poster.unsure
    assert poster.accepted == list(messages) == saved.ids
    assert {DELIVERED} == {one.state for one in messages.values()}
    assert [] == saved.unanswered
    assert services == {name: plane.child(name) for name in services}
    assert started_at == town.status("listener")["startedAt"]
    assert 200 == town.stop("listener").status_code
