"""What goes wrong in the middle of a step: nothing is left running, lost or stuck."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from services.chassis.errors import ServiceError
from services.supervisor.errand import Errand
from services.supervisor.run import State
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
