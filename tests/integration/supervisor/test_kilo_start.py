"""A Kilo that does not come up, without a Kilo: nothing of it is left."""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path

import pytest

from services.chassis.errors import Reason, ServiceError
from services.supervisor.kilo import adapter
from services.supervisor.kilo.adapter import KiloRuntime
from services.supervisor.runtime import Launch, RunSpec
from tests.support.children import marked
from tests.support.waiting import wait_until

pytestmark = pytest.mark.integration

# It leaves somebody in a session of its own, says no port, and minds no signal.
HANGS = """#!/bin/sh
trap '' TERM
setsid sleep 60 &
echo "error: still thinking" >&2
sleep 60
"""


@pytest.fixture
def runtime(tmp_path: Path) -> KiloRuntime:
    program = tmp_path / "kilo"
    program.write_text(HANGS)
    program.chmod(0o755)
    return KiloRuntime(lambda: program)


@pytest.fixture
def launch(tmp_path: Path) -> Launch:
    for name in ("home", "work", "tmp"):
        (tmp_path / name).mkdir()
    return Launch(
        *("t", "r", "toast", f"test-{uuid.uuid4()}", "mayor", RunSpec("kilo")),
        home=tmp_path / "home",
        workdir=tmp_path / "work",
        tmpdir=tmp_path / "tmp",
    )


def ignore(*_: object) -> None:
    """Nobody looks at it."""


async def test_one_that_takes_too_long_is_ended_with_all_it_started(
    runtime: KiloRuntime, launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller is told what it said; no orphan goes on behind its back."""
    monkeypatch.setattr(adapter, "START_S", 3.0)

    with pytest.raises(ServiceError, match="still thinking") as failed:
        await runtime.start(launch, ignore, ignore)

    assert Reason.START_FAILED is failed.value.reason
    assert [] == marked(launch.run)


async def test_one_whose_start_is_cancelled_is_ended_too(
    runtime: KiloRuntime, launch: Launch
) -> None:
    """Whoever waited for it is gone before it came up."""
    starting = asyncio.create_task(runtime.start(launch, ignore, ignore))
    await wait_until(lambda: len(marked(launch.run)) >= 2)

    starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)

    assert starting.cancelled()
    assert [] == marked(launch.run)
