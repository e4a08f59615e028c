"""What a dead supervisor left running is gone on with, or ended: never both, and never
neither."""

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from services.chassis.errors import Reason, ServiceError
from services.supervisor.agent import Agent
from services.supervisor.inbox import InboxMessage
from services.supervisor.ledger import Entry, Ledger
from services.supervisor.process_tree import (
    RUN_MARK,
    ProcessIdentity,
    identify,
    read_process,
)
from services.supervisor.roster import Roster
from services.supervisor.run import State
from services.supervisor.specs import AgentSpec, Claim, Role
from tests.fakes.registry_client import FakeRegistry
from tests.fakes.runtime import FakeRuntime
from tests.fakes.snapshots_client import FakeSnapshots
from tests.support.containers import NAME, World
from tests.support.waiting import wait_until

SPEC = AgentSpec(rig="r", role=Role.MAYOR, runtime="exec", command=("x",), prompt="go")
BEGAN = datetime(2026, 1, 2, tzinfo=UTC)
RUN = "run-of-before"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """One with a session that an earlier supervisor has saved once."""
    registry = FakeRegistry(specs={NAME: SPEC})
    world = World(tmp_path, registry, FakeSnapshots(), FakeRuntime())
    agent = await world.boot()
    await agent.start()
    registry.waiting = [InboxMessage("m1", "hello")]
    agent.wake()
    await asyncio.wait_for(registry.settled.wait(), 10)
    await agent.save()
    await world.die()
    world.runtime.launches.clear()
    yield world
    await world.die()


@pytest.fixture
def process() -> Iterator[ProcessIdentity]:
    """It lives still, whoever started it."""
    with subprocess.Popen(
        ["sleep", "60"],
        env={RUN_MARK: RUN, "PATH": "/usr/bin:/bin"},
        start_new_session=True,
    ) as sleeper:
        found = identify(sleeper.pid)
        assert found is not None
        yield found
        with suppress(ProcessLookupError):
            sleeper.kill()


@pytest.fixture
def ledger(world: World, process: ProcessIdentity) -> Ledger:
    """What the supervisor that died has written down of it."""
    ledger = world.surroundings().ledger
    ledger.started(NAME, Entry(RUN, process, SPEC.digest, BEGAN, resumed=True))
    return ledger


async def successor(world: World) -> tuple[Agent, Claim]:
    agent = await world.boot()
    (claim,) = await world.registry.claim([NAME])
    return agent, claim


@pytest.mark.usefixtures("ledger")
async def test_it_is_the_same_run_under_the_next_epoch(
    world: World, process: ProcessIdentity
) -> None:
    """Nothing is started, what it writes is saved, and its messages go on."""
    agent, claim = await successor(world)

    await agent.resume(claim)

    run = agent.run
    assert run is not None
    assert (RUN, process.pid, BEGAN, 2) == (run.id, run.pid, run.started_at, run.epoch)
    assert (State.RUNNING, True) == (run.state, run.resumed)
    assert [] == world.runtime.launches
    [(launch, kept)] = world.runtime.adopted
    assert (RUN, process) == (launch.run, kept.process)
    assert kept.handover.is_dir()
    saved = len(world.snapshots.generations)
    world.runtime.handle.write("by itself")
    await agent.save()
    assert saved + 1 == len(world.snapshots.generations)
    assert 2 == world.snapshots.uploads[-1].epoch
    types = [each.type for each in agent._around.events.kept(0, NAME.agent)]
    assert "agent.adopted" in types
    assert "agent.started" not in types


async def test_the_prompt_of_one_that_was_fresh_is_seen_to(
    world: World, process: ProcessIdentity, ledger: Ledger
) -> None:
    """Its supervisor may have died before it was given: the session says whether."""
    ledger.started(NAME, Entry(RUN, process, SPEC.digest, BEGAN, resumed=False))
    agent, claim = await successor(world)

    await agent.resume(claim)

    await wait_until(lambda: f"prompt-{RUN}" in world.runtime.handle.said())


async def test_it_keeps_the_model_that_it_was_given(
    world: World, process: ProcessIdentity, ledger: Ledger
) -> None:
    """By a call, after its start: the entry of the agent does not say so."""
    entry = Entry(RUN, process, SPEC.digest, BEGAN, models=("other", ""))
    ledger.started(NAME, entry)
    agent, claim = await successor(world)

    await agent.resume(claim)

    assert agent.run is not None
    assert ("other", "other") == (agent.run.model, world.runtime.handle.model)


@pytest.mark.usefixtures("ledger")
async def test_one_that_was_stopped_by_the_dead_goes_on(
    world: World, process: ProcessIdentity
) -> None:
    """Its leases were in doubt then, and are its successor's now."""
    subprocess.run(["kill", "-STOP", str(process.pid)], check=True)
    await wait_until(lambda: state_of(process) == "T")
    agent, claim = await successor(world)

    await agent.resume(claim)

    await wait_until(lambda: state_of(process) != "T")
    assert process.alive()


@pytest.mark.usefixtures("ledger")
async def test_another_spec_needs_another_start(
    world: World, process: ProcessIdentity
) -> None:
    """What it was told at its start has changed meanwhile."""
    world.registry.specs[NAME] = replace(SPEC, system_prompt="be brief")
    agent, claim = await successor(world)

    await agent.resume(claim)

    assert not process.alive()
    assert ([], 1) == (world.runtime.adopted, len(world.runtime.launches))
    assert agent.run is not None
    assert RUN != agent.run.id


@pytest.mark.usefixtures("ledger")
async def test_one_that_cannot_be_gone_on_with_is_ended_and_started(
    world: World, process: ProcessIdentity
) -> None:
    """In the same step: nobody waits for another try."""
    world.runtime.refuse = [ServiceError(Reason.START_FAILED, "it does not answer")]
    agent, claim = await successor(world)

    await agent.resume(claim)

    assert not process.alive()
    assert (1, 1) == (len(world.runtime.adopted), len(world.runtime.launches))
    assert agent.run is not None
    assert State.RUNNING == agent.run.state
    assert ["m1"] == world.runtime.handle.said()[1:]


@pytest.mark.usefixtures("ledger")
async def test_one_that_has_ended_meanwhile_is_started(
    world: World, process: ProcessIdentity
) -> None:
    """There is nothing to go on with."""
    os.kill(process.pid, signal.SIGKILL)
    await wait_until(lambda: not process.alive())
    agent, claim = await successor(world)

    await agent.resume(claim)

    assert ([], 1) == (world.runtime.adopted, len(world.runtime.launches))


@pytest.mark.usefixtures("ledger")
async def test_one_whom_somebody_has_gone_on_from_is_ended(
    world: World, process: ProcessIdentity
) -> None:
    """Its file is put aside, and the agent starts from the newest generation."""
    other = await world.boot(fresh_disk=True)
    await other.start()
    world.runtime.handle.write("elsewhere")
    await other.save()
    await world.die()
    world.containers = 1
    world.runtime.launches.clear()
    agent, claim = await successor(world)

    await agent.resume(claim)

    assert not process.alive()
    assert ([], 1) == (world.runtime.adopted, len(world.runtime.launches))
    assert "elsewhere" in world.runtime.handle.said()
    [shelf] = (world.tmp_path / "container-1/agents/a/aside").iterdir()
    assert "0001-superseded" == shelf.name


@pytest.fixture
def away(world: World, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The snapshot service is away for as long as this holds something."""
    why, advance = ["away"], world.snapshots.advance

    async def refusing(*args: object) -> object:
        if why:
            raise ServiceError(Reason.SERVICE_UNAVAILABLE, "cannot reach it")
        return await advance(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(world.snapshots, "advance", refusing)
    return why


@pytest.mark.usefixtures("ledger")
async def test_it_lives_on_while_a_service_is_away(
    world: World, process: ProcessIdentity, away: list[str]
) -> None:
    """It is not to blame, and is gone on with when the service is back."""
    agent, claim = await successor(world)
    await agent.resume(claim)
    assert process.alive()
    assert [] == world.runtime.adopted

    away.clear()

    await wait_until(lambda: bool(world.runtime.adopted))
    await wait_until(lambda: agent.run is not None and agent.run.state is State.RUNNING)
    assert process.alive()


@pytest.mark.usefixtures("ledger")
async def test_a_start_by_name_meanwhile_ends_nothing(
    world: World, process: ProcessIdentity, away: list[str]
) -> None:
    """Who asked is told why it must wait; what lives is gone on with all the same."""
    agent, claim = await successor(world)
    await agent.resume(claim)
    for step in (agent.start(), agent.restore(1)):
        with pytest.raises(ServiceError) as refused:
            await step
        assert Reason.SERVICE_UNAVAILABLE is refused.value.reason
    assert (True, {NAME}) == (process.alive(), world.registry.held)

    away.clear()

    await wait_until(lambda: bool(world.runtime.adopted))
    assert process.alive()


async def test_nothing_is_done_to_the_workspace_of_one_that_works_in_it(
    world: World,
    process: ProcessIdentity,
    ledger: Ledger,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is where it was; a server of its origin that is away holds up nothing."""
    entry = Entry(RUN, process, SPEC.digest, BEGAN, workdir="/where/it/works")
    ledger.started(NAME, entry)
    monkeypatch.setattr(World, "_workspace", None)
    agent, claim = await successor(world)

    await agent.resume(claim)

    [(launch, _)] = world.runtime.adopted
    assert Path("/where/it/works") == launch.workdir


async def test_one_that_has_no_database_yet_is_gone_on_with(
    tmp_path: Path, process: ProcessIdentity
) -> None:
    """It has saved nothing, and nobody has gone on from there."""
    registry = FakeRegistry(specs={NAME: SPEC})
    world = World(tmp_path / "new", registry, FakeSnapshots(), FakeRuntime())
    ledger = world.surroundings().ledger
    ledger.started(NAME, Entry(RUN, process, SPEC.digest, BEGAN))
    agent, claim = await successor(world)

    await agent.resume(claim)

    assert (1, True) == (len(world.runtime.adopted), process.alive())
    await world.die()


@pytest.mark.usefixtures("ledger")
async def test_a_stop_meanwhile_leaves_nothing_running(
    world: World, process: ProcessIdentity, away: list[str]
) -> None:
    """What it wrote is saved when the service is back, and then the lease goes."""
    agent, claim = await successor(world)
    await agent.resume(claim)
    with pytest.raises(ServiceError) as pending:
        await agent.stop(1.0)
    assert Reason.SAVE_PENDING is pending.value.reason

    away.clear()

    await wait_until(lambda: world.registry.ended == {NAME: "stopped"})
    assert not process.alive()


@pytest.mark.usefixtures("ledger")
async def test_a_supervisor_that_ends_at_once_leaves_nothing_running(
    world: World, process: ProcessIdentity
) -> None:
    """What it wrote is saved, and somebody else may have the agent at once."""
    around = world.surroundings()
    (claim,) = await world.registry.claim([NAME])
    around.leaving.set()
    world.runtime.handles[-1].write("unsaved")
    saved = len(world.snapshots.generations)

    await Roster(around).boot([claim])

    await wait_until(lambda: not world.registry.held)
    assert not process.alive()
    assert saved + 1 == len(world.snapshots.generations)


@pytest.mark.usefixtures("ledger")
async def test_a_lease_that_is_lost_meanwhile_leaves_nothing_running(
    world: World, process: ProcessIdentity, away: list[str]
) -> None:
    """Somebody else runs the agent."""
    assert away
    agent, claim = await successor(world)
    await agent.resume(claim)

    await agent.lost(claim.epoch, "another has it")

    assert not process.alive()


def state_of(process: ProcessIdentity) -> str:
    found = read_process(process.pid)
    return found.state if found else "gone"
