"""What is said of a start that failed holds no secret of the agent."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from services.chassis.errors import Reason, ServiceError
from services.supervisor.redaction import without_secrets
from services.supervisor.specs import AgentSpec, Role
from tests.fakes.registry_client import FakeRegistry
from tests.fakes.runtime import FakeRuntime
from tests.fakes.snapshots_client import FakeSnapshots
from tests.support.containers import NAME, World

SPEC = AgentSpec(
    rig="r",
    role=Role.MAYOR,
    runtime="exec",
    command=("x",),
    git_url="https://me:p%40ssword@git.example/r.git",
    env_vars={
        "TOKEN": "tok-12345",
        "LONGER": "tok-123456789",
        "KEY": "-----BEGIN-----\nbody-of-a-key\n",
        "FLAG": "true",
    },
)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path, FakeRegistry({NAME: SPEC}), FakeSnapshots(), FakeRuntime())
    yield world
    await world.die()


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("bad token tok-12345.", "bad token [redacted]."),
        ("tok-123456789", "[redacted]"),
        ("cannot read body-of-a-key", "cannot read [redacted]"),
        ("fatal: https://me:p%40ssword@git", "fatal: https://me:[redacted]@git"),
        ("the password is p@ssword", "the password is [redacted]"),
        ("this is true", "this is true"),
    ],
)
def test_secrets_are_cut_out(said: str, told: str) -> None:
    """Values of variables, lines of them, passwords of addresses; no plain words."""
    assert told == without_secrets(said, SPEC)


def test_a_token_in_the_place_of_the_name_is_cut_out() -> None:
    """Hosts take it so; ssh's name is no secret."""
    web = replace(SPEC, git_url="https://t0ken-123@git.example/r.git")
    shell = replace(SPEC, git_url="ssh://gituser@git.example/r.git")

    assert "fatal: [redacted]" == without_secrets("fatal: t0ken-123", web)
    assert "fatal: gituser" == without_secrets("fatal: gituser", shell)


async def test_nobody_hears_what_the_program_said(world: World) -> None:
    """Neither the caller, nor the run, nor the next heartbeat."""
    text = "cannot start: it said `bad tok-12345`"
    world.runtime.refuse = [ServiceError(Reason.START_FAILED, text, said="tok-12345")]
    agent = await world.boot()

    with pytest.raises(ServiceError) as refused:
        await agent.start()

    assert "cannot start: it said `bad [redacted]`" == refused.value.message
    assert {"said": "[redacted]"} == refused.value.metadata
    assert Reason.START_FAILED is refused.value.reason
    assert agent.run is not None
    assert "tok-12345" not in agent.run.error
