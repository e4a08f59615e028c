"""A drain: who is idle goes at once, who works may end its turn, nobody goes beyond the
budget, and each has its receipt."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.chassis.errors import Reason, ServiceError
from services.chassis.names import AgentName
from services.supervisor.drain import END_S, Drain
from services.supervisor.inbox import InboxMessage, Outcome
from services.supervisor.roster import Roster
from services.supervisor.run import State
from services.supervisor.runtime import EventKind, RuntimeEvent, Status
from services.supervisor.specs import AgentSpec, Role
from services.supervisor.surroundings import Surroundings
from tests.fakes.registry_client import FakeRegistry
from tests.fakes.runtime import FakeRuntime
from tests.fakes.snapshots_client import FakeSnapshots
from tests.support.containers import NAME, World
from tests.support.waiting import wait_until

SPEC = AgentSpec(rig="r", role=Role.MAYOR, runtime="exec", command=("x",))
OTHER = AgentName(NAME.town, "other")
LONG_S = END_S + 600.0


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    registry = FakeRegistry(specs={NAME: SPEC, OTHER: SPEC})
    runtime = FakeRuntime(thinking=asyncio.Event())
    world = World(tmp_path, registry, FakeSnapshots(), runtime)
    yield world
    await world.die()


@pytest.fixture
def around(world: World) -> Surroundings:
    return world.surroundings()


@pytest.fixture
def roster(around: Surroundings) -> Roster:
    return Roster(around)


@pytest.fixture
def drain(around: Surroundings, roster: Roster) -> Drain:
    async def announce() -> None:
        around.leaving.set()

    return Drain(roster, announce)


async def receipts(drain: Drain) -> list[tuple[str, int]]:
    """Who left, and how many were there still."""
    return [(one.run.name.agent, one.remaining) async for one in drain.receipts()]


async def works(world: World, roster: Roster) -> None:
    """The first agent is in a turn, and a second message waits behind it."""
    world.registry.waiting = [
        InboxMessage("m1", "one", ""),
        InboxMessage("m2", "2", ""),
    ]
    await roster.start(NAME)
    await wait_until(lambda: ["m1"] == world.runtime.handle.said())


def turns_are_waited_for(roster: Roster) -> bool:
    """Whether the drain has come to the first agent."""
    live = roster.find(NAME)._live
    return live is not None and live._delivery is not None and live._delivery._closed


def thinking(world: World) -> asyncio.Event:
    assert world.runtime.thinking is not None
    return world.runtime.thinking


async def test_who_is_idle_goes_at_once(
    world: World, roster: Roster, drain: Drain
) -> None:
    """Saved and given back, with time left over."""
    await roster.start(NAME)
    world.runtime.handle.write("unsaved")

    drain.begin(LONG_S)

    assert [("a", 0)] == await receipts(drain)
    assert 1 == len(world.snapshots.uploads)
    assert not world.registry.held


async def test_a_turn_ends_and_no_other_begins(
    world: World, roster: Roster, drain: Drain
) -> None:
    """What waits in the inbox is for the next place; what was begun is settled here."""
    await works(world, roster)
    drain.begin(LONG_S)
    await wait_until(lambda: turns_are_waited_for(roster))
    assert State.RUNNING is roster.find(NAME).run.state  # type: ignore[union-attr]

    thinking(world).set()

    assert [("a", 0)] == await receipts(drain)
    assert ["m1"] == world.runtime.handle.said()
    assert [("m1", Outcome.DELIVERED, 1)] == world.registry.acknowledged


async def test_a_turn_that_takes_too_long_is_cut(
    world: World, roster: Roster, drain: Drain
) -> None:
    """Without a turn's time at once; its message stays in the inbox."""
    await works(world, roster)

    drain.begin(END_S)

    assert [("a", 0)] == await receipts(drain)
    assert [] == world.registry.acknowledged
    assert 1 == len(world.snapshots.uploads)


async def test_who_comes_second_can_make_it_shorter_not_longer(
    world: World, roster: Roster, drain: Drain
) -> None:
    """SIGTERM in the middle of a long drain."""
    await works(world, roster)
    drain.begin(LONG_S)
    drain.begin(2 * LONG_S)
    follower = asyncio.create_task(receipts(drain))
    await wait_until(lambda: turns_are_waited_for(roster))

    drain.begin(0.0)

    assert [("a", 0)] == await follower
    assert [] == world.registry.acknowledged


async def test_a_turn_that_nobody_asked_for_counts_too(
    world: World, roster: Roster, drain: Drain
) -> None:
    """The runtime says that it is busy: a person types into its terminal."""
    await roster.start(NAME)
    handle = world.runtime.handle
    handle.tell(RuntimeEvent(EventKind.STATUS, "session.status", status=Status.BUSY))
    drain.begin(LONG_S)
    await wait_until(lambda: turns_are_waited_for(roster))
    assert not handle.ended

    handle.tell(RuntimeEvent(EventKind.STATUS, "session.status", status=Status.IDLE))

    assert [("a", 0)] == await receipts(drain)


async def test_a_process_that_ends_by_itself_holds_up_nothing(
    world: World, roster: Roster, drain: Drain
) -> None:
    """It died in its turn, and is not brought back here."""
    await works(world, roster)
    drain.begin(LONG_S)
    await wait_until(lambda: turns_are_waited_for(roster))

    world.runtime.handle.die(signal=9)

    assert [("a", 0)] == await receipts(drain)
    assert 1 == len(world.runtime.handles)


async def test_each_is_on_its_own(
    world: World, roster: Roster, drain: Drain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that cannot be ended has a receipt that says why, and the others leave."""

    async def refuse(*_: object, **__: object) -> None:
        raise ServiceError(Reason.SAVE_PENDING, "cannot finish")

    await roster.start(NAME)
    await roster.start(OTHER)
    monkeypatch.setattr(roster.find(NAME), "_halt", refuse)

    drain.begin(LONG_S)
    told = [one async for one in drain.receipts()]

    assert {"a": "cannot finish", "other": ""} == {
        one.run.name.agent: one.run.error for one in told
    }
    assert [1, 0] == [one.remaining for one in told]


async def test_what_had_ended_before_has_no_receipt(
    roster: Roster, drain: Drain
) -> None:
    """Nor has anybody where nothing runs."""
    await roster.start(NAME)
    await roster.stop(NAME)

    drain.begin(LONG_S)

    assert [] == await receipts(drain)
