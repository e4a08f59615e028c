"""What goes wrong in the middle of a step: nothing is left running, lost or stuck."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from services.chassis.errors import Reason, ServiceError
from services.supervisor.errand import Errand
from services.supervisor.heartbeat import Heartbeat
from services.supervisor.roster import Roster
from services.supervisor.run import State
from services.supervisor.runtime import Launch
from services.supervisor.snapshots_client import Segmented
from services.supervisor.specs import AgentSpec, Role
from tests.fakes.registry_client import FakeRegistry
from tests.fakes.runtime import FakeRuntime
from tests.fakes.snapshots_client import FakeSnapshots
from tests.support.containers import NAME, World

SPEC = AgentSpec(rig="r", role=Role.MAYOR, runtime="exec", command=("x",))


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    registry = FakeRegistry(specs={NAME: SPEC})
    world = World(tmp_path, registry, FakeSnapshots(), FakeRuntime())
    yield world
    await world.die()


async def until(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.01)


async def fail() -> None:
    raise RuntimeError("a defect")


async def test_a_process_ends_though_a_task_beside_it_has_failed(world: World) -> None:
    """A stop ends the process whatever became of its saves and deliveries."""
    agent = await world.boot()
    await agent.start()
    live = agent._live
    assert live is not None
    live._tasks.append(asyncio.create_task(fail()))
    await until(lambda: live._tasks[-1].done())

    run = await agent.stop(1.0)

    assert (State.EXITED, True) == (run.state, world.runtime.handle.ended)


async def test_a_start_that_fails_after_the_fork_leaves_no_process(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The session cannot be written down: the process that nobody keeps is ended."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    agent = await world.boot()
    with monkeypatch.context() as patched:
        patched.setattr("services.supervisor.saver.Saver.in_session", full)
        with pytest.raises(ServiceError):
            await agent.start()

    assert world.runtime.handle.ended
    await agent.start()
    await agent.stop(1.0)


async def test_an_errand_that_failed_does_not_fail_who_drops_it() -> None:
    """A defect is told once, where it happened; the next step goes on."""
    errand = Errand("a")
    errand.begin(fail())
    await asyncio.sleep(0)
    await asyncio.sleep(0)

    await errand.drop()


async def test_a_hydration_that_fails_lets_go_of_the_database(world: World) -> None:
    """The next start saves as ever: no forgotten saver keeps the file to itself."""
    agent = await world.boot()
    await agent.start()
    await agent.save()
    world.runtime.handle.write("unsaved")
    successor = await world.boot()
    world.snapshots.before = always_fenced
    with pytest.raises(ServiceError):
        await successor.start()
    world.snapshots.before = lambda segmented: None

    await successor.start()
    world.runtime.handle.write("later")
    known = len(world.snapshots.generations)
    await successor.save()

    assert known < len(world.snapshots.generations)
    await successor.stop(1.0)


async def test_a_crash_that_took_the_database_along_is_hydrated(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is gone with the process: the session comes from the store, also when
    its chain is compacted between the look and the download."""
    monkeypatch.setattr("services.supervisor.agent.backoff_s", lambda failures: 0.0)
    agent = await world.boot()
    await agent.start()
    first = world.runtime.handle
    first.write("kept")
    await agent.save()

    for part in first.database.parent.glob(f"{first.database.name}*"):
        part.unlink()
    world.snapshots.compacted = True
    first.die(signal=9)
    await until(lambda: 2 == len(world.runtime.handles))
    await until(lambda: agent.run is not None and agent.run.state is State.RUNNING)

    assert not world.snapshots.compacted
    assert ["kept"] == world.runtime.handle.said()
    assert first.session_id == world.runtime.handle.session_id
    await agent.stop(1.0)


async def test_a_restore_needs_no_head_that_this_runtime_can_read(
    world: World,
) -> None:
    """The way out of RUNTIME_MISMATCH: an older generation, on an empty disk too."""
    world.runtime.version_text = "7.7.9"
    agent = await world.boot()
    await agent.start()
    world.runtime.handle.write("old")
    await agent.save()
    old = world.snapshots.generations[-1].number
    await agent.stop(1.0)
    world.runtime.version_text = "7.8.1"
    await agent.start()
    world.runtime.handle.write("new")
    await agent.stop(1.0)
    world.runtime.version_text = "7.7.9"
    successor = await world.boot(fresh_disk=True)
    with pytest.raises(ServiceError) as refused:
        await successor.start()

    restored, replaced = await successor.restore(old)
    await successor.start()

    assert Reason.RUNTIME_MISMATCH == refused.value.reason
    assert (restored - 1, ["old"]) == (replaced, world.runtime.handle.said())
    await successor.stop(1.0)


async def test_an_older_runtime_is_not_let_at_the_local_file_either(
    world: World,
) -> None:
    """The disk outlived an upgrade that was taken back: nothing is saved or started."""
    world.runtime.version_text = "7.8.1"
    agent = await world.boot()
    await agent.start()
    await agent.stop(1.0)
    known = len(world.snapshots.generations)
    world.runtime.version_text = "7.7.9"

    with pytest.raises(ServiceError) as refused:
        await agent.start()

    assert Reason.RUNTIME_MISMATCH == refused.value.reason
    assert (1, known) == (len(world.runtime.handles), len(world.snapshots.generations))


async def test_work_after_a_rotten_head_is_not_set_aside(
    world: World,
) -> None:
    """A run that goes on from an older generation, with the store away since, is gone
    on with from its disk."""
    agent = await world.boot()
    await agent.start()
    await agent.save()
    world.runtime.handle.write("x" * 50_000)
    await agent.stop(1.0)
    world.snapshots.rot(world.snapshots.generations[-1])
    second = await world.boot(fresh_disk=True)
    world.snapshots.before = always_away
    await second.start()
    world.runtime.handle.write("unsaved")

    third = await world.boot()
    world.snapshots.before = lambda segmented: None
    await third.start()

    assert "unsaved" in world.runtime.handle.said()
    await third.stop(1.0)


def always_away(segmented: Segmented) -> None:
    raise ServiceError(Reason.STORE_UNAVAILABLE, "cannot reach the store")


def always_fenced(segmented: Segmented) -> None:
    raise ServiceError(Reason.LEASE_FENCED, "cannot commit: another epoch was seen")


async def test_a_restore_of_nothing_leaves_the_agent_running(world: World) -> None:
    """A number that does not exist is refused before anything ends."""
    agent = await world.boot()
    run = await agent.start()

    with pytest.raises(ServiceError) as refused:
        await agent.restore(99)

    assert Reason.SNAPSHOT_NOT_FOUND == refused.value.reason
    assert (State.RUNNING, run) == (run.state, await agent.start())
    await agent.stop(1.0)


async def test_a_restore_that_fails_half_way_starts_the_agent_again(
    world: World,
) -> None:
    """What ran before the call runs after it, on what it had."""
    agent = await world.boot()
    await agent.start()
    world.runtime.handle.write("kept")
    await agent.save()
    old = world.snapshots.generations[0]
    world.runtime.handle.write("x" * 50_000)
    await agent.save()
    world.snapshots.rot(old)

    with pytest.raises(ServiceError):
        await agent.restore(old.number)

    assert agent.run is not None
    assert State.RUNNING == agent.run.state
    assert "kept" in world.runtime.handle.said()
    await agent.stop(1.0)


async def test_a_restore_ends_a_row_of_crashes(world: World) -> None:
    """An agent that waits to be started again is one that runs: it is not ended."""
    agent = await world.boot()
    await agent.start()
    await agent.save()
    world.runtime.handle.die(code=1)
    await until(lambda: agent.run is not None and agent.run.state is State.BACKOFF)

    await agent.restore(1)

    assert State.RUNNING == agent.run.state  # type: ignore[union-attr]
    assert {} == world.registry.ended
    await agent.stop(1.0)


async def test_who_leaves_with_a_save_pending_ends_no_agent(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store comes back while the container ends: the agent must run elsewhere."""
    monkeypatch.setattr("services.supervisor.live.LAST_SAVE_S", 0.05)
    monkeypatch.setattr("services.supervisor.agent.backoff_s", lambda failures: 0.0)
    agent = await world.boot()
    await agent.start()
    world.runtime.handle.write("last")
    world.snapshots.before = always_away
    with pytest.raises(ServiceError):
        await agent.leave(1.0)
    world.snapshots.before = lambda segmented: None

    await until(lambda: NAME not in world.registry.held)

    assert {} == world.registry.ended


async def test_an_old_lease_that_was_lost_does_not_end_a_new_run(world: World) -> None:
    """The news of a lost lease waits for a start that has taken the next one."""
    agent = await world.boot()
    await agent.start()
    lost = agent.epoch
    world.registry.held.clear()
    run = await agent.start()

    await agent.lost(lost, "it was another's for a while")

    assert (lost + 1, State.RUNNING) == (agent.epoch, run.state)
    await agent.stop(1.0)


async def test_a_lost_lease_does_not_hold_up_the_heartbeat(world: World) -> None:
    """One agent's step takes long: the leases of all others are renewed meanwhile."""
    around = world.surroundings()
    roster = Roster(around)
    world.snapshots.gate = asyncio.Event()
    starting = asyncio.create_task(roster.start(NAME))
    await until(lambda: bool(world.runtime.handles))
    run = await starting
    stopping = asyncio.create_task(roster.stop(NAME))
    await until(lambda: run.state is State.SAVING)
    heart = Heartbeat(around, roster, ignore, 0.0, ignore)
    world.registry.lost = (NAME,)

    async with asyncio.timeout(1):
        await heart._beat_once()

    world.snapshots.gate.set()
    await stopping
    await around.settle()


async def test_a_release_that_was_not_heard_does_not_end_the_next_run(
    world: World,
) -> None:
    """Stopped while the registry was away, started when it is back: it runs."""
    around = world.surroundings()
    roster = Roster(around)
    await roster.start(NAME)
    world.registry.deaf = True
    with pytest.raises(ServiceError, match="ended and is saved"):
        await roster.stop(NAME, 1.0)
    world.registry.deaf = False

    run = await roster.start(NAME)
    await Heartbeat(around, roster, ignore, 0.0, ignore)._beat_once()

    assert ({}, {NAME}) == (world.registry.ended, world.registry.held)
    assert State.RUNNING == run.state
    await roster.leave(1.0)


async def test_a_defect_in_one_try_does_not_end_the_tries(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error that nobody thought of is a failed start, not the end of the agent."""
    monkeypatch.setattr("services.supervisor.agent.backoff_s", lambda failures: 0.0)
    broken = [ValueError("a defect")] * 2

    def before(launch: Launch) -> None:
        if broken:
            raise broken.pop()

    world.runtime.before = before
    agent = await world.boot()

    await agent.resume((await world.registry.claim([NAME]))[0])
    await until(lambda: agent.run is not None and agent.run.state is State.RUNNING)

    await agent.stop(1.0)


async def test_a_model_that_was_changed_outlives_a_crash(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next turns use it, whatever dies in between; and it is no other spec."""
    monkeypatch.setattr("services.supervisor.agent.backoff_s", lambda failures: 0.0)
    agent = await world.boot()
    await agent.start()
    await agent.set_model("p/new", "")

    world.runtime.handle.die(signal=9)
    await until(lambda: 2 == len(world.runtime.handles))
    await until(lambda: agent.run is not None and agent.run.state is State.RUNNING)
    run = await agent.start()
    world.registry.specs[NAME] = replace(SPEC, model="p/new")
    await agent.start()

    assert ("p/new", "p/new") == (run.model, world.runtime.handle.model)
    assert 2 == len(world.runtime.handles)
    await agent.stop(1.0)


async def test_a_stop_after_a_start_that_failed_is_not_undone_by_a_boot(
    world: World,
) -> None:
    """What was stopped stays stopped, though it never ran."""
    world.runtime.refuse = [ServiceError(Reason.START_FAILED, "cannot start: no")]
    agent = await world.boot()
    with pytest.raises(ServiceError):
        await agent.start()

    await agent.stop(1.0)

    assert ({NAME: "stopped"}, set()) == (world.registry.ended, world.registry.held)


async def ignore(why: str = "") -> None:
    """A supervisor that was replaced would end here."""
