"""Starts: one after the other for an agent, beside each other for several, and each
with all that it needs before its process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from services.chassis.errors import Reason, ServiceError
from services.chassis.names import AgentName
from services.supervisor.roster import Roster
from services.supervisor.run import CRASHES_MAX, State
from services.supervisor.runtime import Launch
from services.supervisor.specs import AgentSpec, Role
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
    registry = FakeRegistry(specs={NAME: SPEC, OTHER: SPEC})
    world = World(tmp_path, registry, FakeSnapshots(), FakeRuntime())
    yield world
    await world.die()


@pytest.fixture
def around(world: World) -> Surroundings:
    return world.surroundings()


@pytest.fixture
async def roster(world: World, around: Surroundings) -> AsyncIterator[Roster]:
    roster = Roster(around)
    yield roster
    if world.runtime.starting is not None:
        world.runtime.starting.set()
    async with asyncio.timeout(10):
        await roster.leave(1.0)


def state(roster: Roster, name: AgentName = NAME) -> State:
    run = roster.find(name).run
    assert run is not None
    return run.state


async def test_two_starts_at_once_are_one_process(world: World, roster: Roster) -> None:
    """The second waits for the first, and is told of the run that it finds."""
    world.runtime.starting = asyncio.Event()
    starts = [asyncio.create_task(roster.start(NAME)) for _ in range(2)]
    await wait_until(lambda: world.runtime.launches)

    world.runtime.starting.set()
    first, second = await asyncio.gather(*starts)

    assert first is second
    assert 1 == len(world.runtime.launches)


async def test_a_start_that_takes_long_holds_up_no_other_agent(
    world: World, roster: Roster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No lock is shared: one may wait for the store for as long as it takes."""
    go, advance = asyncio.Event(), world.snapshots.advance

    async def advance_late(name: AgentName, epoch: int) -> tuple[Any, int]:
        if name == NAME:
            await go.wait()
        return await advance(name, epoch)

    monkeypatch.setattr(world.snapshots, "advance", advance_late)
    slow = asyncio.create_task(roster.start(NAME))
    await wait_until(lambda: NAME in roster._agents and roster._agents[NAME].run)

    try:
        run = await asyncio.wait_for(roster.start(OTHER), 5)
        seen = run.state, state(roster)
    finally:
        go.set()
    await slow

    assert (State.RUNNING, State.HYDRATING) == seen


async def test_agents_in_one_folder_have_a_process_and_a_home_each(
    world: World, roster: Roster
) -> None:
    """The end of one is not the end of the other."""
    await roster.start(NAME)
    await roster.start(OTHER)
    one, other = world.runtime.launches

    await roster.stop(NAME, 1.0)

    assert one.workdir == other.workdir
    assert 2 == len({one.home, other.home}) == len({one.tmpdir, other.tmpdir})
    assert [True, False] == [handle.ended for handle in world.runtime.handles]
    assert State.RUNNING is state(roster, OTHER)


async def test_a_stop_waits_for_the_start_before_it(
    world: World, roster: Roster
) -> None:
    """A start is not torn off half-way: it is finished, and then ended as any run."""
    world.runtime.starting = asyncio.Event()
    starting = asyncio.create_task(roster.start(NAME))
    await wait_until(lambda: world.runtime.launches)
    stopping = asyncio.create_task(roster.stop(NAME, 1.0))
    assert (set(), {stopping}) == await asyncio.wait({stopping}, timeout=0.1)

    world.runtime.starting.set()
    await asyncio.gather(starting, stopping)

    assert (State.EXITED, True) == (state(roster), world.runtime.handle.ended)
    assert ({NAME: "stopped"}, set()) == (world.registry.ended, world.registry.held)


async def test_a_run_is_known_while_it_starts(
    world: World, around: Surroundings, roster: Roster
) -> None:
    """To callers, to heartbeats, and on the disk to whoever boots there next."""
    world.runtime.starting = asyncio.Event()
    starting = asyncio.create_task(roster.start(NAME))
    await wait_until(lambda: world.runtime.launches)

    assert State.STARTING is state(roster)
    assert [(NAME, True)] == [(one.agent, one.alive) for one in roster.evidence()]
    assert [NAME] == around.ledger.agents(NAME.town)
    world.runtime.starting.set()
    await starting


async def test_nothing_starts_without_its_workspace(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A resume needs it as a first start does, and is tried again until it is there."""
    monkeypatch.setattr("services.supervisor.agent.backoff_s", lambda failures: 0.0)
    asked, there = asyncio.Event(), asyncio.Event()

    async def prepare(name: AgentName, spec: AgentSpec) -> Path:
        asked.set()
        if not there.is_set():
            raise ServiceError(Reason.START_FAILED, "cannot prepare the workspace")
        return world.tmp_path

    monkeypatch.setattr(world, "_workspace", prepare)
    agent = await world.boot()
    (claim,) = await world.registry.claim([NAME])

    await agent.resume(claim)
    assert asked.is_set()
    assert ([], True) == (world.runtime.launches, agent.holds_lease)
    there.set()
    await wait_until(lambda: agent.run is not None and agent.run.state is State.RUNNING)

    assert [world.tmp_path] == [one.workdir for one in world.runtime.launches]
    await agent.stop(1.0)


async def test_one_that_cannot_come_back_holds_up_no_other(
    world: World, roster: Roster
) -> None:
    """A boot goes on, and the one that failed keeps its lease for the next try."""

    def refuse(launch: Launch) -> None:
        if launch.agent == NAME.agent:
            raise OSError("no")

    world.runtime.before = refuse

    await roster.boot(await world.registry.claim([NAME, OTHER]))

    assert (State.FAILED, State.RUNNING) == (state(roster), state(roster, OTHER))
    assert {NAME, OTHER} == world.registry.held


async def test_an_eviction_is_no_crash(world: World) -> None:
    """However often an agent loses its container, it runs in the next one."""
    for _ in range(CRASHES_MAX + 1):
        agent = await world.boot(fresh_disk=True)
        run = await agent.start()
        assert (State.RUNNING, 0) == (run.state, run.crash_count)
        await agent.leave(1.0)

    assert {} == world.registry.ended
