"""A run whose lease is in doubt: its epoch is refused, or the registry is away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import pytest

from services.chassis.errors import Reason, ServiceError
from services.chassis.names import AgentName
from services.supervisor.agent import Agent
from services.supervisor.run import Crashes, Run, State
from services.supervisor.specs import AgentSpec, Claim, Role
from tests.fakes.registry_client import FakeRegistry
from tests.fakes.runtime import FakeRuntime
from tests.fakes.snapshots_client import FakeSnapshots
from tests.support.containers import NAME, World
from tests.support.waiting import wait_until

SPEC = AgentSpec(rig="r", role=Role.MAYOR, runtime="exec", command=("x",))


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    registry = FakeRegistry(specs={NAME: SPEC})
    world = World(tmp_path, registry, FakeSnapshots(), FakeRuntime())
    yield world
    await world.die()


def asides(world: World) -> list[str]:
    return [path.name for path in world.tmp_path.rglob("aside/*")]


def runs(agent: Agent, epoch: int) -> bool:
    run = agent.run
    return run is not None and (epoch, State.RUNNING) == (run.epoch, run.state)


async def fenced(world: World, agent: Agent, by: int = 1) -> Run:
    """A run with a saved state and a later one, when its epoch is past."""
    run = await agent.start()
    world.runtime.handle.write("saved")
    await agent.save()
    world.snapshots.epoch += by
    world.runtime.handle.write("unsaved")
    return run


async def test_a_rebuilt_catalog_costs_nothing(world: World) -> None:
    """The lease is ours by the registry's word: the run begins anew under the next
    epoch, and what was not saved yet is saved from the file that is here."""
    agent = await world.boot()
    first = await fenced(world, agent)

    with pytest.raises(ServiceError, match="epoch"):
        await agent.save()
    await wait_until(lambda: runs(agent, first.epoch + 1))

    await agent.save()
    assert ["saved", "unsaved"] == world.runtime.handle.said()[-2:]
    assert [] == asides(world)
    assert 2 == len(world.runtime.handles)
    assert agent.epoch == world.snapshots.uploads[-1].epoch


async def test_who_leaves_says_so_when_it_asks_for_its_lease_too(world: World) -> None:
    """Said otherwise for one beat, it would be handed agents in it."""
    agent = await world.boot()
    first = await fenced(world, agent)
    agent._around.leaving.set()

    with pytest.raises(ServiceError):
        await agent.save()
    await wait_until(lambda: first.epoch + 1 == agent.epoch)
    await agent.leave(1.0)

    assert world.registry.leaving
    # It was not started again to be ended, and what it had is saved.
    assert 1 == len(world.runtime.handles)
    assert first.epoch + 1 == world.snapshots.uploads[-1].epoch


async def test_what_is_anothers_is_left_alone(world: World) -> None:
    """The registry says that the lease is lost: nothing is claimed, the file is kept
    aside."""
    agent = await world.boot()
    first = await fenced(world, agent)
    world.registry.lost = (NAME,)

    with pytest.raises(ServiceError):
        await agent.save()
    await wait_until(lambda: first.state is State.FAILED)

    assert (None, 1) == (agent._claim, world.registry.epochs[NAME])
    assert ["0001-fenced"] == asides(world)


async def test_nobody_can_say(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the registry it is taken for lost: two must not run one agent."""

    async def away(*_: object, **__: object) -> None:
        raise ServiceError(Reason.SERVICE_UNAVAILABLE, "cannot reach the registry")

    agent = await world.boot()
    first = await fenced(world, agent)
    monkeypatch.setattr(world.registry, "heartbeat", away)

    with pytest.raises(ServiceError):
        await agent.save()
    await wait_until(lambda: first.state is State.FAILED)

    assert ["0001-fenced"] == asides(world)


async def test_epochs_that_are_far_ahead_are_reached(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A registry that came back from an old copy gives low epochs: each try takes the
    next one."""
    shown = list[tuple[int, int]]()
    agent = await world.boot()

    def backoff_s(failures: int) -> float:
        # What a heartbeat says meanwhile, and what the registry compares it with.
        shown.append((agent.epoch, world.registry.epochs[NAME]))
        return 0.0

    monkeypatch.setattr("services.supervisor.agent.backoff_s", backoff_s)
    await fenced(world, agent, 3)

    with pytest.raises(ServiceError):
        await agent.save()

    await wait_until(lambda: runs(agent, 4))
    assert [] == asides(world)
    assert shown
    assert [] == [one for one in shown if one[0] != one[1]]


def away_between_two_leases(
    world: World, tries: int, then: Reason | None = None, epoch: int = 1
) -> None:
    """The registry does not answer so many claims under this epoch; the one after those
    it answers, or refuses."""
    claim, left = world.registry.claim, tries

    async def claimed(
        agents: Iterable[AgentName] = (), *, renew: bool = False
    ) -> list[Claim]:
        nonlocal left
        if left and world.registry.epochs[NAME] == epoch:
            left -= 1
            raise ServiceError(Reason.SERVICE_UNAVAILABLE, "cannot reach the registry")
        if then is not None:
            raise ServiceError(then, "cannot claim")
        return await claim(agents, renew=renew)

    world.registry.claim = claimed  # type: ignore[method-assign]


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.supervisor.holding.backoff_s", lambda failures: 0.0)
    monkeypatch.setattr("services.supervisor.agent.backoff_s", lambda failures: 0.0)


async def test_the_next_lease_is_waited_for(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody has the agent meanwhile, so nobody but us would bring it back; a heartbeat
    that showed the old lease would be told that it is lost."""
    shown = list[bool]()
    agent = await world.boot()

    def backoff_s(failures: int) -> float:
        shown.append(agent.holds_lease)
        return 0.0

    monkeypatch.setattr("services.supervisor.holding.backoff_s", backoff_s)
    first = await fenced(world, agent)
    away_between_two_leases(world, 3)

    with pytest.raises(ServiceError):
        await agent.save()
    await wait_until(lambda: runs(agent, first.epoch + 1))

    assert ["saved", "unsaved"] == world.runtime.handle.said()[-2:]
    assert ([], [False] * 3) == (asides(world), shown)


@pytest.mark.usefixtures("at_once")
async def test_a_start_waits_for_it_too(world: World) -> None:
    """The epoch that is tried next is refused as well."""
    agent = await world.boot()
    await fenced(world, agent, 3)
    away_between_two_leases(world, 2, epoch=2)

    with pytest.raises(ServiceError):
        await agent.save()

    await wait_until(lambda: runs(agent, 4))


@pytest.mark.usefixtures("at_once")
async def test_another_may_have_it_by_then(world: World) -> None:
    """Then that one goes on with it, and nothing of ours runs."""
    agent = await world.boot()
    await fenced(world, agent)
    away_between_two_leases(world, 2, Reason.LEASE_HELD)

    with pytest.raises(ServiceError):
        await agent.save()
    await wait_until(lambda: agent.run is not None and agent.run.state is State.FAILED)

    assert (True, 1) == (world.runtime.handle.ended, len(world.runtime.handles))
    assert not agent.holds_lease


async def test_a_stop_ends_the_waiting(world: World) -> None:
    """It needs no registry to end the process; when that is back the intent ends too,
    and what was not saved yet is, under the next epoch."""
    agent = await world.boot()
    first = await fenced(world, agent)
    claim = world.registry.claim
    away_between_two_leases(world, 2)
    with pytest.raises(ServiceError):
        await agent.save()
    await wait_until(lambda: agent.run is not None and agent.run.state is State.BACKOFF)

    with pytest.raises(ServiceError, match="the save goes on"):
        await agent.stop(0.1)
    world.registry.claim = claim  # type: ignore[method-assign]
    run = await agent.stop(0.1)

    assert ({NAME: "stopped"}, State.EXITED) == (world.registry.ended, run.state)
    assert 2 == len(world.snapshots.generations)
    assert first.epoch + 1 == world.snapshots.uploads[-1].epoch
    assert (True, 1) == (world.runtime.handle.ended, len(world.runtime.handles))


@pytest.mark.parametrize("way", ["stop", "leave"])
async def test_an_end_stays_an_end(world: World, way: str) -> None:
    """Its last save is taken under the next epoch, and nothing is started again."""
    agent = await world.boot()
    first = await fenced(world, agent)

    with pytest.raises(ServiceError, match="waits"):
        await (agent.stop(0.1) if way == "stop" else agent.leave(0.1))

    await wait_until(lambda: agent.epoch == 0)
    assert first is agent.run
    assert State.EXITED is first.state
    assert 1 == len(world.runtime.handles)
    assert 2 == len(world.snapshots.generations)
    assert first.epoch + 1 == world.snapshots.uploads[-1].epoch
    assert [] == asides(world)


async def test_a_crash_while_others_may_have_the_agent_restarts_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its tree stands still; whatever ends then comes back when the lease is sure."""
    tries = asyncio.Event()

    def backoff_s(failures: int) -> float:
        tries.set()
        return 0.0

    monkeypatch.setattr("services.supervisor.agent.backoff_s", backoff_s)
    agent = await world.boot()
    await agent.start()
    agent._around.may_start.clear()
    begin, begun = agent._begin, list[object]()

    async def noted(claim: Claim, crashes: Crashes) -> Run:
        begun.append(claim)
        return await begin(claim, crashes)

    monkeypatch.setattr(agent, "_begin", noted)
    world.runtime.handle.die(signal=9)
    await tries.wait()
    for _ in range(100):
        await asyncio.sleep(0)
    assert (1, []) == (len(world.runtime.handles), begun)

    agent._around.may_start.set()
    await wait_until(lambda: 2 == len(world.runtime.handles))
    await agent.stop(1.0)


async def test_nothing_starts_while_others_may_have_the_agent(world: World) -> None:
    """Also what was on its way when the lease became doubtful."""
    agent = await world.boot()
    agent._around.may_start.clear()

    with pytest.raises(ServiceError, match="out of reach"):
        await agent.start()

    assert [] == world.runtime.handles


@pytest.fixture
def never(monkeypatch: pytest.MonkeyPatch) -> None:
    """No restart comes before the test has ended."""
    monkeypatch.setattr("services.supervisor.agent.backoff_s", lambda failures: 3600.0)


def _away(*_: object) -> None:
    raise ServiceError(Reason.STORE_UNAVAILABLE, "cannot reach the store")


async def _away_soon(*_: object) -> None:
    _away()


@pytest.mark.usefixtures("never")
async def test_a_stop_saves_what_a_crash_has_left(world: World) -> None:
    """The store was away when the process died, and is when it is stopped."""
    agent = await world.boot()
    await agent.start()
    world.runtime.handle.write("saved")
    await agent.save()
    world.snapshots.before = _away
    world.runtime.handle.write("unsaved")
    world.runtime.handle.die(signal=9)
    await wait_until(lambda: agent.run is not None and agent.run.state is State.BACKOFF)

    with pytest.raises(ServiceError, match="the save goes on"):
        await agent.stop(0.1)
    assert {} == world.registry.ended
    world.snapshots.before = lambda segmented: None
    await agent.stop(0.1)

    assert {NAME: "stopped"} == world.registry.ended
    assert 2 == len(world.snapshots.generations)


@pytest.mark.usefixtures("never")
async def test_a_stop_saves_what_a_failed_start_has_left(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fenced, renewed, and then the snapshot service went away."""
    agent = await world.boot()
    await fenced(world, agent)
    with monkeypatch.context() as patch:
        patch.setattr(world.snapshots, "advance", _away_soon)
        with pytest.raises(ServiceError):
            await agent.save()
        await wait_until(lambda: bool(agent.failed_starts))
        with pytest.raises(ServiceError, match="the save goes on"):
            await agent.stop(0.1)
        assert {} == world.registry.ended

    await agent.stop(0.1)

    assert {NAME: "stopped"} == world.registry.ended
    assert 2 == len(world.snapshots.generations)
    assert 1 == len(world.runtime.handles)


@pytest.mark.usefixtures("never")
async def test_an_end_that_cannot_be_saved_is_said_and_is_one(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else no stop would ever end it. The file stays for who looks."""
    agent = await world.boot()
    await fenced(world, agent)
    with monkeypatch.context() as patch:
        patch.setattr(world.snapshots, "advance", _away_soon)
        with pytest.raises(ServiceError):
            await agent.save()
        await wait_until(lambda: bool(agent.failed_starts))

    async def refused(*_: object) -> None:
        raise ServiceError(Reason.RUNTIME_MISMATCH, "cannot read it")

    monkeypatch.setattr(world.snapshots, "advance", refused)
    with pytest.raises(ServiceError, match="cannot read it"):
        await agent.stop(0.1)
    await agent.stop(0.1)

    assert {NAME: "stopped"} == world.registry.ended
    assert 1 == len(world.snapshots.generations)
