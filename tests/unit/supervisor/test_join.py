"""Joining a town: a registry that is away is waited for, a refusal is told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.chassis.errors import Reason, ServiceError
from services.chassis.settings import SettingsError
from services.supervisor import __main__ as supervisor
from services.supervisor.specs import AgentSpec, Claim, Role
from services.supervisor.surroundings import Surroundings
from tests.fakes.registry_client import FakeRegistry
from tests.fakes.runtime import FakeRuntime
from tests.fakes.snapshots_client import FakeSnapshots
from tests.support.containers import NAME, World

SPEC = AgentSpec(rig="r", role=Role.MAYOR, runtime="exec", command=("x",))
INTERVAL_S = 2.0


@pytest.fixture
async def around(tmp_path: Path) -> AsyncIterator[Surroundings]:
    registry = AllFakeRegistry(specs={NAME: SPEC})
    world = World(tmp_path, registry, FakeSnapshots(), FakeRuntime())
    yield world.surroundings()
    await world.die()


class AllFakeRegistry(FakeRegistry):
    """Gives all that must run."""

    async def claim_all(self) -> list[Claim]:
        return await self.claim()


class Door:
    """What the registry answers to a registration, one after the other."""

    def __init__(self, *refusals: Reason) -> None:
        self.refusals = list(refusals)

    async def register(self) -> float:
        if self.refusals:
            raise ServiceError(self.refusals.pop(0), "cannot register")
        return INTERVAL_S


async def test_a_registry_that_is_away_is_waited_for(
    around: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With growing pauses, for as long as it takes; nothing is given up."""
    waits: list[int] = []

    def backoff(failures: int) -> float:
        waits.append(failures)
        return 0.0

    monkeypatch.setattr(supervisor, "backoff_s", backoff)
    door = Door(*[Reason.SERVICE_UNAVAILABLE] * 8)

    interval_s, claims = await supervisor._register(around, door.register)

    assert (INTERVAL_S, [NAME]) == (interval_s, [claim.name for claim in claims])
    assert list(range(1, 9)) == waits


async def test_a_token_that_is_refused_is_a_bad_setting(around: Surroundings) -> None:
    """Waiting would not help: it says which variable to give."""
    door = Door(Reason.TOWN_FOREIGN)

    with pytest.raises(SettingsError, match="GASTOWN_CONTAINER_TOKEN"):
        await supervisor._register(around, door.register)
