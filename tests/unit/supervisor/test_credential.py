"""A run's token: in its environment, fresh in its file, taken back at its end."""

from __future__ import annotations

import asyncio
import stat
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from services.chassis.clock import SystemClock
from services.chassis.errors import Reason, ServiceError
from services.supervisor import credential
from services.supervisor.credential import FILE_VARIABLE, TOKEN_VARIABLE, Credential
from services.supervisor.specs import AgentSpec, Role
from tests.fakes.registry_client import FakeRegistry
from tests.fakes.runtime import FakeRuntime
from tests.fakes.snapshots_client import FakeSnapshots
from tests.support.clock import ManualClock
from tests.support.containers import NAME, World
from tests.support.waiting import wait_until

SPEC = AgentSpec(rig="r", role=Role.MAYOR, runtime="exec", command=("x",))


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path, FakeRegistry({NAME: SPEC}), FakeSnapshots(), FakeRuntime())
    yield world
    await world.die()


@pytest.fixture
def registry() -> FakeRegistry:
    return FakeRegistry({NAME: SPEC}, epochs={NAME: 1})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "token"


@pytest.fixture
def steps() -> list[asyncio.Task[None]]:
    """What goes on beside: nobody waits for it but the test."""
    return []


@pytest.fixture
def token(
    registry: FakeRegistry, file: Path, steps: list[asyncio.Task[None]]
) -> Credential:
    return Credential(
        NAME,
        1,
        "run-1",
        file,
        registry,
        SystemClock(),
        lambda step: steps.append(asyncio.ensure_future(step)),
    )


async def test_the_environment_names_the_token_and_its_file(
    token: Credential, file: Path
) -> None:
    """Which only the agent's user reads."""
    environ = await token.begin()

    assert {TOKEN_VARIABLE: "token-1", FILE_VARIABLE: str(file)} == environ
    assert "token-1" == file.read_text()
    assert 0o600 == stat.S_IMODE(file.stat().st_mode)


async def test_the_file_is_kept_fresh(
    token: Credential, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Long before the token expires; the process is not touched for it."""
    # So that half of the life is over at once.
    monkeypatch.setattr(credential, "LIFE_S", 0.0)
    monkeypatch.setattr(credential, "PAUSE_MIN_S", 0.0)
    await token.begin()

    keeping = asyncio.create_task(token.keep_fresh())
    await wait_until(lambda: file.read_text() != "token-1")
    keeping.cancel()


async def test_a_clock_that_is_ahead_asks_no_more_often(
    token: Credential, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By it each token has expired when it comes."""
    await token.begin()
    token._clock = ManualClock(datetime.now(UTC) + timedelta(hours=2))
    waits: list[float] = []

    async def wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            raise asyncio.CancelledError

    monkeypatch.setattr(asyncio, "sleep", wait)
    with pytest.raises(asyncio.CancelledError):
        await token.keep_fresh()

    assert [60.0] * 3 == waits


async def test_a_registry_that_is_away_holds_up_no_start(
    token: Credential,
    registry: FakeRegistry,
    file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The agent is told where its token will be, and it comes."""
    monkeypatch.setattr(credential, "backoff_s", lambda _: 0.0)
    registry.deaf = True

    assert {FILE_VARIABLE: str(file)} == await token.begin()
    assert not file.exists()

    keeping = asyncio.create_task(token.keep_fresh())
    registry.deaf = False
    await wait_until(file.exists)
    keeping.cancel()


async def test_a_registry_that_hangs_holds_it_up_for_a_moment_only(
    token: Credential, registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as a start can bear."""
    monkeypatch.setattr(credential, "FIRST_S", 0.01)

    async def hang(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(registry, "issue_agent_token", hang)

    assert TOKEN_VARIABLE not in await token.begin()


async def test_without_the_lease_it_stops_asking(
    token: Credential, registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run is about to be ended; another one has the agent."""
    monkeypatch.setattr(credential, "LIFE_S", 0.0)
    monkeypatch.setattr(credential, "PAUSE_MIN_S", 0.0)
    await token.begin()
    registry.epochs[NAME] = 2

    await asyncio.wait_for(token.keep_fresh(), 5)


async def test_the_end_takes_it_back(
    token: Credential,
    registry: FakeRegistry,
    file: Path,
    steps: list[asyncio.Task[None]],
) -> None:
    """Once; the file is gone with it, and no late answer brings it back."""
    await token.begin()

    await token.end()
    await token.end()
    await token._renew()
    await asyncio.gather(*steps)

    assert ["run-1"] == registry.revoked
    assert not file.exists()


@pytest.mark.parametrize("answers_again", [True, False])
async def test_a_registry_that_is_away_at_the_end(
    token: Credential,
    registry: FakeRegistry,
    steps: list[asyncio.Task[None]],
    monkeypatch: pytest.MonkeyPatch,
    answers_again: bool,
) -> None:
    """Is told a few times; after that the token expires by itself, or the next run
    takes it back."""
    waits: list[int] = []

    def backoff(failures: int) -> float:
        waits.append(failures)
        registry.deaf = registry.deaf and not (answers_again and failures == 2)
        return 0.0

    monkeypatch.setattr(credential, "backoff_s", backoff)
    await token.begin()
    registry.deaf = True

    await token.end()
    await asyncio.gather(*steps)

    assert (["run-1"] if answers_again else []) == registry.revoked
    assert len(waits) <= credential.TAKE_BACK_TRIES


async def test_a_registry_that_revokes_nothing_is_asked_once(
    token: Credential,
    registry: FakeRegistry,
    steps: list[asyncio.Task[None]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One of an earlier version, or one that has no room."""
    asked: list[object] = []

    async def refuse(*given: object) -> None:
        asked.append(given)
        raise ServiceError(Reason.STORAGE_FULL, "cannot remember more")

    monkeypatch.setattr(registry, "revoke_run", refuse)
    await token.begin()

    await token.end()
    await asyncio.gather(*steps)

    assert 1 == len(asked)


class TestInALife:
    async def test_each_run_has_its_own(self, world: World) -> None:
        """Given at its start, taken back when it ends, however it ends."""
        agent = await world.boot()
        first = await agent.start()
        environ = world.runtime.launches[-1].environ
        assert "token-1" == environ[TOKEN_VARIABLE]
        assert "token-1" == Path(environ[FILE_VARIABLE]).read_text()

        world.runtime.handle.die(signal=9)
        await wait_until(lambda: len(world.registry.issued) == 2, limit_s=10)
        second = world.registry.issued[1]
        assert [first.id] == world.registry.revoked

        await agent.stop(1.0)
        await wait_until(lambda: len(world.registry.revoked) == 2)
        assert [first.id, second] == world.registry.revoked
        assert not Path(environ[FILE_VARIABLE]).exists()

    async def test_a_lost_lease_takes_it_back(self, world: World) -> None:
        """The container's credential may still do that."""
        agent = await world.boot()
        run = await agent.start()

        await agent.lost(run.epoch, "another instance has it")

        await wait_until(lambda: [run.id] == world.registry.revoked)

    async def test_a_start_that_fails_leaves_none(self, world: World) -> None:
        """It was given one before the program would not start."""
        world.runtime.refuse = [ServiceError(Reason.START_FAILED, "cannot start")]
        agent = await world.boot()

        with pytest.raises(ServiceError):
            await agent.start()

        await wait_until(lambda: world.registry.revoked)
        assert world.registry.issued == world.registry.revoked
