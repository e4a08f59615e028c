"""An agent's life, with a real database and everything else in memory."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import apsw
import pytest

from services.chassis.errors import Reason, ServiceError
from services.supervisor.inbox import InboxMessage, Outcome
from services.supervisor.run import State
from services.supervisor.snapshots_client import Segmented
from services.supervisor.specs import AgentSpec, Resume, Role
from tests.fakes.registry_client import FakeRegistry
from tests.fakes.runtime import FakeRuntime
from tests.fakes.snapshots_client import FakeSnapshots
from tests.support.containers import NAME, World

SPEC = AgentSpec(rig="r", role=Role.MAYOR, runtime="exec", command=("x",), prompt="go")


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


async def test_a_stop_saves_before_it_answers(world: World) -> None:
    """When a stop has returned, everything the agent did is a generation."""
    agent = await world.boot()
    await agent.start()
    world.registry.waiting = [InboxMessage("m1", "hello")]
    agent.wake()
    await asyncio.wait_for(world.registry.settled.wait(), 10)

    run = await agent.stop(1.0)

    assert (State.EXITED, "stopped") == (run.state, run.exit_reason)
    assert run.generation == world.snapshots.generations[-1].number > 0
    assert {NAME: "stopped"} == world.registry.ended


async def test_a_new_container_has_the_whole_session(world: World) -> None:
    """The disk is gone: the session comes back, and the prompt is not said again."""
    agent = await world.boot()
    await agent.start()
    world.registry.waiting = [InboxMessage("m1", "hello")]
    agent.wake()
    await asyncio.wait_for(world.registry.settled.wait(), 10)
    session = world.runtime.handle.session_id

    successor = await world.boot(fresh_disk=True)
    run = await successor.start()

    assert run.resumed
    assert session == run.session_id
    said = world.runtime.handle.said()
    assert ["m1"] == said[1:]
    assert said[0].startswith("prompt-")
    await successor.stop(1.0)


async def test_stop_then_start_at_once_over_a_slow_store(world: World) -> None:
    """A start waits for the save of the stop before it: the history is complete."""
    world.snapshots.gate = asyncio.Event()
    agent = await world.boot()
    await agent.start()
    await until(lambda: bool(world.runtime.handle.said()))
    stopping = asyncio.create_task(agent.stop(1.0))
    await until(lambda: agent.run is not None and agent.run.state is State.SAVING)
    starting = asyncio.create_task(agent.start())
    await asyncio.sleep(0)
    assert 1 == len(world.runtime.launches)
    world.snapshots.gate.set()

    await stopping
    run = await starting

    assert run.resumed
    assert 1 == len(world.runtime.handle.said())
    await agent.stop(1.0)


async def test_a_crash_restarts_with_what_is_on_disk(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process dies: it comes back by itself, same session, nothing lost."""
    monkeypatch.setattr("services.supervisor.agent.backoff_s", lambda failures: 0.0)
    agent = await world.boot()
    await agent.start()
    await until(lambda: bool(world.runtime.handle.said()))
    session = world.runtime.handle.session_id

    world.runtime.handle.die(signal=9)
    await until(lambda: 2 == len(world.runtime.handles))
    await until(lambda: agent.run is not None and agent.run.state is State.RUNNING)

    assert agent.run is not None
    assert (1, True) == (agent.run.crash_count, agent.run.resumed)
    assert session == world.runtime.launches[-1].resume_session
    await agent.stop(1.0)


async def test_an_agent_that_cannot_live_is_given_up(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six crashes in a row end it as failed, with its state saved."""
    monkeypatch.setattr("services.supervisor.agent.backoff_s", lambda failures: 0.0)
    world.runtime.before = lambda launch: None
    agent = await world.boot()
    await agent.start()

    for life in range(1, 7):
        await until(lambda life=life: life == len(world.runtime.handles))  # type: ignore[misc]
        await until(lambda: agent.run is not None and agent.run.state is State.RUNNING)
        world.runtime.handle.die(code=1)
    await until(lambda: agent.run is not None and agent.run.state is State.FAILED)
    await until(lambda: NAME in world.registry.ended)

    assert {NAME: "failed"} == world.registry.ended
    assert world.snapshots.generations


async def test_exit_zero_is_the_end(world: World) -> None:
    """A program that ends well is completed: saved, released, not started again."""
    agent = await world.boot()
    await agent.start()

    world.runtime.handle.die(code=0)
    await until(lambda: NAME in world.registry.ended)

    assert {NAME: "completed"} == world.registry.ended
    assert agent.run is not None
    assert State.EXITED == agent.run.state


async def test_a_lost_lease_ends_it_and_keeps_its_file_aside(world: World) -> None:
    """Who lost the lease saves nothing more, and what it had is not thrown away."""
    agent = await world.boot()
    await agent.start()
    await until(lambda: bool(world.snapshots.generations))
    before = len(world.snapshots.generations)

    await agent.lost(agent.epoch, "epoch 2 is another's")

    assert before == len(world.snapshots.generations)
    assert agent.run is not None
    assert State.FAILED == agent.run.state
    aside = world.tmp_path / "container-1/agents/a/aside/0001-fenced/agent.db"
    assert aside.exists()


async def test_unsaved_work_of_a_dead_supervisor_is_saved_first(world: World) -> None:
    """Only the supervisor died: what its agent wrote after the last save is kept."""
    agent = await world.boot()
    await agent.start()
    await until(lambda: bool(world.snapshots.generations))
    database = world.runtime.handle.database
    connection = apsw.Connection(str(database))
    connection.execute("insert into said values ('late', '')")
    connection.close()

    successor = await world.boot()
    await successor.start()

    assert "late" in world.runtime.handle.said()
    await successor.stop(1.0)


async def test_a_stale_local_file_gives_way_to_the_head(world: World) -> None:
    """Somebody else went on from here: the old file is set aside, the head is used."""
    first = await world.boot()
    await first.start()
    await until(lambda: bool(world.snapshots.generations))
    old_disk = world.containers
    second = await world.boot(fresh_disk=True)
    await second.start()
    world.registry.waiting = [InboxMessage("new", "on the second")]
    second.wake()
    await asyncio.wait_for(world.registry.settled.wait(), 10)
    await second.stop(1.0)
    world.containers = old_disk

    third = await world.boot()
    await third.start()

    assert "new" in world.runtime.handle.said()
    await third.stop(1.0)


async def test_a_rotten_head_falls_back_and_says_so(world: World) -> None:
    """The newest sound generation is used; the loss is reported, never silent."""
    agent = await world.boot()
    await agent.start()
    await agent.save()
    world.registry.waiting = [InboxMessage("m1", "x" * 50_000)]
    agent.wake()
    await asyncio.wait_for(world.registry.settled.wait(), 10)
    await agent.stop(1.0)
    head = world.snapshots.generations[-1]
    assert head.number > 1
    world.snapshots.rot(head)

    run = await (await world.boot(fresh_disk=True)).start()

    assert head.number == run.lost_generations[0]
    assert str(head.number) in run.error


async def test_no_sound_generation_refuses_the_start(world: World) -> None:
    """Never a silent fresh session in place of one that cannot be read."""
    agent = await world.boot()
    await agent.start()
    await until(lambda: bool(world.snapshots.generations))
    await agent.stop(1.0)
    for generation in world.snapshots.generations:
        world.snapshots.rot(generation)

    with pytest.raises(ServiceError) as refused:
        await (await world.boot(fresh_disk=True)).start()

    assert Reason.SNAPSHOT_CORRUPT == refused.value.reason


async def test_other_roles_start_a_fresh_session(world: World) -> None:
    """A worker's database is put back, its session is not resumed unless asked."""
    world.registry.specs[NAME] = AgentSpec(
        rig="r", role=Role.POLECAT, runtime="exec", command=("x",)
    )
    agent = await world.boot()
    await agent.start()
    await agent.stop(1.0)
    await (await world.boot(fresh_disk=True)).start()
    assert world.runtime.launches[-1].resume_session is None

    world.registry.specs[NAME] = AgentSpec(
        rig="r",
        role=Role.POLECAT,
        runtime="exec",
        command=("x",),
        resume=Resume.LATEST,
    )
    await (await world.boot(fresh_disk=True)).start()

    assert world.runtime.launches[-1].resume_session is not None


async def test_a_failed_start_is_told_and_leaves_nothing(world: World) -> None:
    """The caller learns why; the lease is free; the next start works."""
    world.runtime.refuse = [ServiceError(Reason.START_FAILED, "cannot start: no")]
    agent = await world.boot()
    with pytest.raises(ServiceError):
        await agent.start()
    assert NAME not in world.registry.held

    run = await agent.start()

    assert State.RUNNING == run.state
    await agent.stop(1.0)


async def test_a_start_of_a_running_agent_is_the_run_it_has(world: World) -> None:
    """Starting twice is one process; another spec is a new one, after a save."""
    agent = await world.boot()
    first = await agent.start()
    assert first is await agent.start()
    assert 1 == len(world.runtime.launches)

    world.registry.specs[NAME] = AgentSpec(
        rig="r", role=Role.MAYOR, runtime="exec", command=("y",)
    )
    second = await agent.start()

    assert first.id != second.id
    assert ("y",) == world.runtime.launches[-1].spec.command
    await agent.stop(1.0)


async def test_a_restore_brings_an_older_generation_back_as_a_new_one(
    world: World,
) -> None:
    """Nothing is overwritten: the old state becomes the newest generation."""
    agent = await world.boot()
    await agent.start()
    await until(lambda: bool(world.snapshots.generations))
    await agent.save()
    old = world.snapshots.generations[-1].number
    world.registry.waiting = [InboxMessage("m1", "regret")]
    agent.wake()
    await asyncio.wait_for(world.registry.settled.wait(), 10)

    restored, replaced = await agent.restore(old)

    assert old < replaced < restored
    assert "m1" not in world.runtime.handle.said()
    assert Outcome.DELIVERED == world.registry.acknowledged[0][1]
    await agent.stop(1.0)


async def test_a_save_whose_answer_was_never_heard_is_no_strangers(
    world: World,
) -> None:
    """The supervisor dies between commit and answer: what the agent wrote since is on
    disk only, and the successor goes on from there."""
    agent = await world.boot()
    await agent.start()
    await until(lambda: bool(world.snapshots.generations))
    world.snapshots.after = always_lost
    known = len(world.snapshots.generations)
    world.runtime.handle.write("first")
    await until(lambda: len(world.snapshots.generations) > known)
    world.runtime.handle.write("second")

    successor = await world.boot()
    world.snapshots.after = lambda segmented: None
    await successor.start()

    assert ["first", "second"] == world.runtime.handle.said()[-2:]
    await successor.stop(1.0)


async def test_a_session_is_known_before_its_first_save(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the store away since the first start, a crash goes on with the session."""
    monkeypatch.setattr("services.supervisor.agent.backoff_s", lambda failures: 0.0)
    world.snapshots.before = always_lost
    agent = await world.boot()
    await agent.start()
    session = world.runtime.handle.session_id

    world.runtime.handle.die(signal=9)
    await until(lambda: 2 == len(world.runtime.handles))
    await until(lambda: agent.run is not None and agent.run.state is State.RUNNING)
    crashed = world.runtime.launches[-1].resume_session
    successor = await world.boot()
    await successor.start()

    assert [session] * 2 == [crashed, world.runtime.launches[-1].resume_session]
    world.snapshots.before = lambda segmented: None
    await successor.stop(1.0)


async def test_a_stop_tells_of_a_store_that_is_away_and_a_start_waits_for_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SAVE_PENDING at once; nothing starts before the last state is a generation."""
    monkeypatch.setattr("services.supervisor.live.SAVE_AGAIN_S", 0.01)
    agent = await world.boot()
    await agent.start()
    world.runtime.handle.write("last")
    world.snapshots.before = always_lost

    with pytest.raises(ServiceError) as refused:
        await agent.stop(1.0)
    starting = asyncio.create_task(agent.start())
    tried = len(world.snapshots.uploads)
    await until(lambda: len(world.snapshots.uploads) > tried + 2)

    assert Reason.SAVE_PENDING is refused.value.reason
    assert (True, 1) == (agent.holds_lease, len(world.runtime.handles))
    known = len(world.snapshots.generations)
    world.snapshots.before = lambda segmented: None
    await starting
    assert "last" in world.runtime.handle.said()
    assert known < len(world.snapshots.generations)
    await agent.stop(1.0)


def always_lost(segmented: Segmented) -> None:
    raise ServiceError(Reason.STORE_UNAVAILABLE, "cannot hear the answer")
