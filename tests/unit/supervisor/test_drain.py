"""A drain: who is idle goes at once, who works may end its turn, nobody goes beyond the
budget, and each has its receipt."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from services.chassis.errors import Reason, ServiceError
from services.chassis.names import AgentName
from services.supervisor import live
from services.supervisor.drain import END_S, Drain
from services.supervisor.heartbeat import Heartbeat
from services.supervisor.inbox import InboxMessage, Outcome
from services.supervisor.roster import Roster
from services.supervisor.run import State
from services.supervisor.runtime import EventKind, RuntimeEvent, Status
from services.supervisor.specs import AgentSpec, Role
from services.supervisor.surroundings import Surroundings
from services.supervisor.workspace_save import SaveOutcome, WorkspaceSave
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

    return Drain(roster, announce, nothing_to_save)


async def nothing_to_save(*_: object) -> WorkspaceSave:
    return WorkspaceSave(SaveOutcome.UNCHANGED)


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


def away(segmented: object) -> None:
    raise ServiceError(Reason.STORE_UNAVAILABLE, "the store is away")


async def has_unsaved(
    world: World, roster: Roster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An agent that runs, while the store takes nothing and each end soon gives up."""
    monkeypatch.setattr(live, "LAST_SAVE_S", 0.1)
    await roster.start(NAME)
    world.runtime.handle.write("unsaved")
    world.snapshots.before = away


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
    handle.status_now = Status.BUSY
    drain.begin(LONG_S)
    await wait_until(lambda: turns_are_waited_for(roster))
    assert not handle.ended

    handle.status_now = Status.IDLE
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
    assert State.EXITED is roster.find(NAME).run.state  # type: ignore[union-attr]
    assert not world.registry.held


async def test_who_is_starting_starts_and_has_its_prompt_and_its_turn(
    world: World, roster: Roster, drain: Drain
) -> None:
    """A session that is resumed elsewhere would never be given the prompt."""
    world.registry.specs[NAME] = replace(SPEC, prompt="begin")
    world.runtime.starting = asyncio.Event()
    starting = asyncio.create_task(roster.start(NAME))
    await wait_until(lambda: world.runtime.launches)
    drain.begin(LONG_S)
    follower = asyncio.create_task(receipts(drain))
    assert (set(), {follower}) == await asyncio.wait({follower}, timeout=0.1)

    world.runtime.starting.set()
    run = await starting
    await wait_until(lambda: [f"prompt-{run.id}"] == world.runtime.handle.said())
    await wait_until(lambda: turns_are_waited_for(roster))
    assert (set(), {follower}) == await asyncio.wait({follower}, timeout=0.5)
    thinking(world).set()

    assert [("a", 0)] == await follower
    assert 1 == len(world.snapshots.uploads)


async def test_nothing_starts_that_would_be_cut_off(
    world: World,
    around: Surroundings,
    roster: Roster,
    drain: Drain,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It was claimed before, and comes to its start now; it starts elsewhere."""
    go, advance = asyncio.Event(), world.snapshots.advance

    async def advance_late(name: AgentName, epoch: int) -> tuple[Any, int]:
        await go.wait()
        return await advance(name, epoch)

    monkeypatch.setattr(world.snapshots, "advance", advance_late)
    coming = asyncio.create_task(roster.start(NAME))
    await wait_until(lambda: NAME in roster._agents and roster._agents[NAME].run)
    drain.begin(LONG_S)
    await wait_until(around.leaving.is_set)

    go.set()
    with pytest.raises(ServiceError) as refused:
        await coming

    assert Reason.SHUTTING_DOWN is refused.value.reason
    await drain.ended()
    assert [] == world.runtime.launches
    assert not world.registry.held


async def test_a_save_that_the_store_does_not_take_is_tried_to_the_end(
    world: World, roster: Roster, drain: Drain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is time: the heir would start from an older state."""
    await has_unsaved(world, roster, monkeypatch)
    drain.begin(LONG_S)
    await wait_until(lambda: roster.find(NAME)._ending is not None)

    world.snapshots.before = lambda segmented: None

    assert [("a", 0)] == await receipts(drain)
    assert 1 == len(world.snapshots.generations)
    assert not world.registry.held


async def test_what_was_not_saved_is_tried_again_by_who_comes_second(
    world: World, roster: Roster, drain: Drain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGTERM after a drain; there is no second receipt."""
    await has_unsaved(world, roster, monkeypatch)
    drain.begin(0.0)
    assert [("a", 0)] == await receipts(drain)
    await drain.ended()
    world.snapshots.before = lambda segmented: None

    drain.begin(LONG_S)
    await drain.ended()

    assert [("a", 0)] == await receipts(drain)
    assert 1 == len(world.snapshots.generations)
    assert not world.registry.held


async def test_who_is_slow_to_listen_is_told_all(roster: Roster, drain: Drain) -> None:
    """Receipts come while one is on its way."""
    await roster.start(NAME)
    await roster.start(OTHER)
    drain.begin(LONG_S)

    told = []
    async for receipt in drain.receipts():
        told.append(receipt.remaining)
        await drain.ended()

    assert [1, 0] == told


async def test_who_went_away_and_asks_again_is_told_all(
    roster: Roster, drain: Drain
) -> None:
    """A client whose connection broke."""
    await roster.start(NAME)
    drain.begin(LONG_S)
    gone = drain.receipts()
    await anext(gone)
    await gone.aclose()  # type: ignore[attr-defined]

    assert [("a", 0)] == await receipts(drain)


async def test_it_leaves_although_nobody_could_be_told(
    around: Surroundings, roster: Roster
) -> None:
    """Whatever is wrong with the heartbeat."""

    async def fail() -> None:
        raise OSError("no")

    await roster.start(NAME)
    drain = Drain(roster, fail, nothing_to_save)
    drain.begin(LONG_S)

    assert [("a", 0)] == await receipts(drain)


async def test_who_has_no_agents_says_that_it_leaves_too(
    world: World, around: Surroundings, roster: Roster
) -> None:
    """By its own name: nothing has to run for that."""
    heart = Heartbeat(around, roster, nobody, 0.0, nobody)
    drain = Drain(roster, heart.say_leaving, nothing_to_save)

    drain.begin(LONG_S)
    await drain.ended()

    assert world.registry.leaving
    assert [] == await receipts(drain)


async def nobody(why: str = "") -> None:
    """Is asked to register, or replaced."""


async def test_each_is_on_its_own(
    world: World, roster: Roster, drain: Drain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that cannot be ended has a receipt that says why, and the others leave."""

    async def refuse(*_: object, **__: object) -> None:
        raise ServiceError(Reason.STORAGE_FULL, "cannot finish")

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


async def test_an_end_that_fails_skips_no_save(
    world: World, roster: Roster, drain: Drain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the runtime makes of it: what the agent wrote is durable then."""
    await roster.start(NAME)
    world.runtime.handle.write("unsaved")
    monkeypatch.setattr(world.runtime.handle, "stop", fails)

    drain.begin(LONG_S)

    [(_, remaining)] = await receipts(drain)
    assert (1, 0) == (len(world.snapshots.generations), remaining)
    assert not world.registry.held


async def fails(grace_s: float = 10.0) -> None:
    raise RuntimeError("a defect")
