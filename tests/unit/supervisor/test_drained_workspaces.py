"""What a drain does with workspaces: after the sessions, in what is left of the budget,
and whatever becomes of one hinders nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from services.chassis.errors import Reason, ServiceError
from services.chassis.names import AgentName
from services.supervisor import live
from services.supervisor.drain import END_S, Drain, Receipt
from services.supervisor.roster import Roster
from services.supervisor.run import State
from services.supervisor.specs import AgentSpec, Role
from services.supervisor.surroundings import Surroundings
from services.supervisor.workspace_save import SaveOutcome, Workspace, WorkspaceSave
from tests.fakes.registry_client import FakeRegistry
from tests.fakes.runtime import FakeRuntime
from tests.fakes.snapshots_client import FakeSnapshots
from tests.support.containers import NAME, World
from tests.support.waiting import wait_until

SPEC = AgentSpec(rig="r", role=Role.POLECAT, runtime="exec", command=("x",))
OTHER = AgentName(NAME.town, "other")
LONG_S = END_S + 600.0


@dataclass
class FakeSaver:
    """Notes what was there when a save began; one that hangs ends with the time."""

    world: World
    hangs: set[AgentName] = field(default_factory=set)
    begun: dict[AgentName, tuple[Workspace, str, int, bool]] = field(
        default_factory=dict
    )

    async def save(
        self, workspace: Workspace, name: AgentName, run: str, spent: asyncio.Event
    ) -> WorkspaceSave:
        saved, held = (
            len(self.world.snapshots.uploads),
            name in self.world.registry.held,
        )
        self.begun[name] = workspace, run, saved, held
        if name in self.hangs:
            await spent.wait()
            return WorkspaceSave(SaveOutcome.KEPT, error="no time")
        return WorkspaceSave(SaveOutcome.PUSHED)


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
def roster(around: Surroundings) -> Roster:
    return Roster(around)


@pytest.fixture
def saver(world: World) -> FakeSaver:
    return FakeSaver(world)


@pytest.fixture
def drain(around: Surroundings, roster: Roster, saver: FakeSaver) -> Drain:
    async def announce() -> None:
        around.leaving.set()

    return Drain(roster, announce, saver.save)


async def told(drain: Drain) -> dict[str, Receipt]:
    """The receipts, by agent."""
    return {one.run.name.agent: one async for one in drain.receipts()}


async def test_the_session_and_the_lease_come_first(
    world: World, roster: Roster, drain: Drain, saver: FakeSaver, tmp_path: Path
) -> None:
    """A workspace may take long: the heir must not wait for it."""
    run = await roster.start(NAME)
    world.runtime.handle.write("unsaved")

    drain.begin(LONG_S)

    receipt = (await told(drain))["a"]
    assert (Workspace(tmp_path, SPEC), run.id, 1, False) == saver.begun[NAME]
    assert receipt.workspace == WorkspaceSave(SaveOutcome.PUSHED)
    assert State.EXITED is receipt.run.state


async def test_one_that_hangs_holds_up_no_other_and_ends_with_the_budget(
    world: World, roster: Roster, drain: Drain, saver: FakeSaver
) -> None:
    """Also with one that was made shorter by who came second."""
    saver.hangs = {NAME}
    await roster.start(NAME)
    await roster.start(OTHER)
    drain.begin(LONG_S)
    receipts = drain.receipts()
    assert OTHER == (await anext(receipts)).run.name
    await wait_until(lambda: NAME in saver.begun)
    assert not world.registry.held

    drain.begin(0.0)

    last = await anext(receipts)
    assert (NAME, 0) == (last.run.name, last.remaining)
    assert last.workspace == WorkspaceSave(SaveOutcome.KEPT, error="no time")
    await drain.ended()


async def test_a_drain_is_not_over_before_its_workspaces(
    roster: Roster, drain: Drain, saver: FakeSaver
) -> None:
    """The process ends when the drain has."""
    saver.hangs = {NAME}
    await roster.start(NAME)
    drain.begin(LONG_S)
    await wait_until(lambda: NAME in saver.begun)
    ended = asyncio.create_task(drain.ended())
    assert (set(), {ended}) == await asyncio.wait({ended}, timeout=0.1)

    drain.begin(0.0)

    await ended


async def test_a_session_that_cannot_be_saved_does_not_cost_the_workspace(
    world: World, roster: Roster, drain: Drain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store is away; the origin is not."""

    def away(segmented: object) -> None:
        raise ServiceError(Reason.STORE_UNAVAILABLE, "the store is away")

    monkeypatch.setattr(live, "LAST_SAVE_S", 0.1)
    await roster.start(NAME)
    world.runtime.handle.write("unsaved")
    world.snapshots.before = away

    drain.begin(END_S)

    receipt = (await told(drain))["a"]
    assert State.SAVING is receipt.run.state
    assert receipt.workspace == WorkspaceSave(SaveOutcome.PUSHED)
    await drain.ended()  # else who asks again only joins it
    world.snapshots.before = lambda segmented: None
    monkeypatch.undo()  # the last try must come to its end
    drain.begin(LONG_S)
    await drain.ended()


async def test_who_never_had_a_workspace_has_nothing_told_of_one(
    world: World,
    roster: Roster,
    drain: Drain,
    saver: FakeSaver,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It was on its way here and had not come to it."""
    go = asyncio.Event()

    async def fail_late(*_: object) -> None:
        await go.wait()
        raise ServiceError(Reason.STORE_UNAVAILABLE, "the store is away")

    monkeypatch.setattr(world.snapshots, "advance", fail_late)
    coming = asyncio.create_task(roster.start(NAME))
    await wait_until(lambda: NAME in roster._agents and roster._agents[NAME].run)
    drain.begin(LONG_S)

    go.set()
    await asyncio.wait({coming})

    assert (await told(drain))["a"].workspace is None
    assert coming.exception() is not None
    assert {} == saver.begun
