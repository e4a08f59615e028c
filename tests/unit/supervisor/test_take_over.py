"""Agents that lost their holder: asked for when a heartbeat tells of some, brought back
once."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.chassis.errors import Reason, ServiceError
from services.chassis.names import AgentName
from services.supervisor.heartbeat import Heartbeat
from services.supervisor.roster import Roster
from services.supervisor.run import State
from services.supervisor.runtime import Launch
from services.supervisor.specs import AgentSpec, Claim, Role
from services.supervisor.surroundings import Surroundings
from tests.fakes.registry_client import FakeRegistry
from tests.fakes.runtime import FakeRuntime
from tests.fakes.snapshots_client import FakeSnapshots
from tests.support.containers import NAME, World
from tests.support.waiting import wait_until

SPEC = AgentSpec(rig="r", role=Role.MAYOR, runtime="exec", command=("x",))
OTHER = AgentName(NAME.town, "other")


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    registry = FakeRegistry(specs={NAME: SPEC})
    world = World(tmp_path, registry, FakeSnapshots(), FakeRuntime())
    yield world
    await world.die()


@pytest.fixture
def around(world: World) -> Surroundings:
    return world.surroundings()


@pytest.fixture
def roster(around: Surroundings) -> Roster:
    return Roster(around)


async def beat(around: Surroundings, roster: Roster) -> Heartbeat:
    """One heartbeat, and all that follows from it."""
    heart = Heartbeat(around, roster, ignore, 0.0, ignore)
    await heart._beat_once()
    await around.settle()
    return heart


def _fail(launch: Launch) -> None:
    raise OSError("no")


async def ignore(why: str = "") -> None:
    """What the test does not come to."""


async def test_what_is_offered_is_claimed_and_runs(
    world: World, around: Surroundings, roster: Roster
) -> None:
    """Without anybody having asked for it."""
    world.registry.claimable = 1

    await beat(around, roster)

    assert State.RUNNING == roster.find(NAME).run.state  # type: ignore[union-attr]
    await roster.leave(1.0)


async def test_nothing_is_asked_for_when_nothing_is_offered(
    world: World, around: Surroundings, roster: Roster
) -> None:
    """A claim goes through all agents of a town: not for each heartbeat."""
    await beat(around, roster)

    assert 0 == world.registry.claims


async def test_what_runs_already_is_left_alone(
    world: World, around: Surroundings, roster: Roster
) -> None:
    """The answer to a claim names all that is held here."""
    run = await roster.start(NAME)
    world.registry.specs[OTHER] = SPEC
    world.registry.claimable = 1

    await beat(around, roster)

    assert run is roster.find(NAME).run
    assert State.RUNNING == roster.find(OTHER).run.state  # type: ignore[union-attr]
    await roster.leave(1.0)


async def test_a_claim_whose_answer_was_lost_is_asked_for_again(
    world: World, around: Surroundings, roster: Roster
) -> None:
    """The registry has given the agent to us: nobody offers it any more."""
    world.registry.claimable, world.registry.losing_answers = 1, True
    heart = await beat(around, roster)
    world.registry.claimable, world.registry.losing_answers = 0, False

    await heart._beat_once()
    await around.settle()
    await heart._beat_once()
    await around.settle()

    assert State.RUNNING == roster.find(NAME).run.state  # type: ignore[union-attr]
    assert 2 == world.registry.claims
    await roster.leave(1.0)


async def test_a_claim_that_was_told_late_undoes_no_stop(
    world: World, around: Surroundings, roster: Roster
) -> None:
    """Claimed by a start, told by a claim as well, stopped before that is read."""
    await roster.start(NAME)
    claim = Claim(NAME, SPEC, roster.find(NAME).epoch, 0)
    await roster.stop(NAME, 1.0)

    await roster.take_over([claim])

    assert State.EXITED == roster.find(NAME).run.state  # type: ignore[union-attr]
    assert 1 == len(world.runtime.handles)


async def test_who_leaves_claims_nothing(
    world: World, around: Surroundings, roster: Roster
) -> None:
    """It would hold what it does not run."""
    world.registry.claimable = 1
    heart = Heartbeat(around, roster, ignore, 0.0, ignore)

    await heart.say_leaving()
    await around.settle()

    assert 0 == world.registry.claims


async def test_a_stop_reaches_one_that_waits_for_its_turn(
    world: World, around: Surroundings, roster: Roster
) -> None:
    """It ran here once, has been taken over, and is about to be brought back."""
    await roster.start(NAME)
    await roster.stop(NAME, 1.0)
    world.registry.ended.clear()
    claim = (await world.registry.claim())[0]
    turns = [await roster._boots.acquire() for _ in range(4)]
    coming = asyncio.create_task(roster.take_over([claim]))
    await wait_until(lambda: NAME in roster._booting)

    await roster.stop(NAME, 1.0)
    for _ in turns:
        roster._boots.release()
    await coming

    assert {NAME: "stopped"} == world.registry.ended
    assert 1 == len(world.runtime.handles)


async def test_a_claim_undoes_no_stop_that_is_still_saving(
    world: World, around: Surroundings, roster: Roster
) -> None:
    """Stopped, fenced, and waiting under another epoch for its last save."""
    await roster.start(NAME)
    agent = roster.find(NAME)
    agent._ending = "stopped"

    await agent.resume(Claim(NAME, SPEC, agent.epoch + 1, 0))

    assert 1 == len(world.runtime.handles)
    await roster.leave(1.0)


async def test_every_lease_that_was_not_given_back_is_told_again(
    world: World, around: Surroundings, roster: Roster
) -> None:
    """A failed start while the registry is away: else it would be ours for ever."""
    world.runtime.before = _fail
    world.registry.deaf = True
    with pytest.raises(ServiceError):
        await roster.start(NAME)
    assert {NAME} == world.registry.held
    world.registry.deaf = False

    await beat(around, roster)

    assert set() == world.registry.held
    assert {NAME} == world.registry.waiting_for_boot


async def test_one_that_waits_for_its_turn_is_brought_back_once(
    world: World, around: Surroundings, roster: Roster
) -> None:
    """Told by the next claim as well, while the first is still at work."""
    claim = (await world.registry.claim())[0]

    await asyncio.gather(roster.take_over([claim]), roster.take_over([claim]))

    assert 1 == len(world.runtime.handles)
    await roster.leave(1.0)


async def test_a_start_that_failed_is_nobody_elses_to_try(
    world: World, around: Surroundings, roster: Roster
) -> None:
    """Whoever asked for it was told."""
    world.runtime.before = _fail

    with pytest.raises(ServiceError):
        await roster.start(NAME)

    assert {NAME} == world.registry.waiting_for_boot


async def test_a_stop_is_one_when_the_registry_has_heard(
    world: World, roster: Roster
) -> None:
    """Another boot of the slot would start the agent else; asked again, it is told."""
    await roster.start(NAME)
    world.registry.deaf = True
    for _ in range(2):
        with pytest.raises(ServiceError) as refused:
            await roster.stop(NAME, 1.0)
        assert Reason.SERVICE_UNAVAILABLE is refused.value.reason
    world.registry.deaf = False

    run = await roster.stop(NAME, 1.0)

    assert ({NAME: "stopped"}, set()) == (world.registry.ended, world.registry.held)
    assert State.EXITED == run.state


async def test_what_is_handed_to_us_is_claimed_without_waiting_for_a_beat(
    world: World, around: Surroundings, roster: Roster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once more where a claim was under way: it may have been too early."""
    heart, claim = Heartbeat(around, roster, ignore, 0.0, ignore), world.registry.claim
    told = asyncio.Event()

    async def claim_once_told() -> list[Claim]:
        await told.wait()
        return await claim()

    monkeypatch.setattr(world.registry, "claim", claim_once_told)
    world.registry.claimable = 1
    await heart._beat_once()
    world.registry.hints = [None, None]
    watching = asyncio.create_task(heart.watch_messages())
    await wait_until(lambda: not world.registry.hints)
    told.set()
    await around.settle()

    assert State.RUNNING == roster.find(NAME).run.state  # type: ignore[union-attr]
    assert 2 == world.registry.claims
    watching.cancel()
    await roster.leave(1.0)


async def test_who_leaves_takes_nothing_that_is_handed_to_it(
    world: World, around: Surroundings, roster: Roster
) -> None:
    """It goes on when the instance has gone."""
    heart = Heartbeat(around, roster, ignore, 0.0, ignore)
    await heart.say_leaving()
    world.registry.hints = [None, OTHER]
    watching = asyncio.create_task(heart.watch_messages())

    await wait_until(lambda: not world.registry.hints)
    await around.settle()

    assert 0 == world.registry.claims
    watching.cancel()


async def test_what_comes_when_we_leave_is_given_back_at_once(
    world: World, around: Surroundings, roster: Roster
) -> None:
    """The answer of a claim from before: else it waited for our own end."""
    (claim,) = await world.registry.claim()
    around.leaving.set()

    await roster.take_over([claim])

    assert not world.registry.held
    assert not world.registry.ended
    assert [] == world.runtime.handles


async def test_who_waits_for_its_turn_when_we_leave_is_given_back(
    world: World, around: Surroundings, roster: Roster
) -> None:
    """It never ran here."""
    (claim,) = await world.registry.claim()
    turns = [await roster._boots.acquire() for _ in range(4)]
    coming = asyncio.create_task(roster.take_over([claim]))
    await wait_until(lambda: NAME in roster._booting)
    around.leaving.set()
    for _ in turns:
        roster._boots.release()
    await coming

    assert not world.registry.held
    assert [] == world.runtime.handles


async def test_an_answer_that_is_lost_when_we_leave_is_asked_for_again(
    world: World, around: Surroundings, roster: Roster
) -> None:
    """What it would have told of is ours: nobody else can have it until we end."""
    world.registry.claimable, world.registry.losing_answers = 1, True
    heart = await beat(around, roster)
    world.registry.claimable, world.registry.losing_answers = 0, False
    assert world.registry.held

    await heart.say_leaving()
    await around.settle()

    assert not world.registry.held
    assert [] == world.runtime.handles
