"""Checks: run apart, bounded in time, and told apart."""

from __future__ import annotations

import asyncio

import pytest

from services.chassis import health
from services.chassis.errors import Reason, ServiceError
from services.chassis.health import Health


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "CHECK_TIMEOUT_S", 0.05)


async def fine() -> None:
    """Passes."""


async def refused() -> None:
    raise ServiceError(Reason.STORE_UNAVAILABLE, "cannot reach the store")


async def stuck() -> None:
    await asyncio.Event().wait()


async def crashed() -> None:
    raise RuntimeError("a defect")


async def test_every_check_counts() -> None:
    """Each failing check is named with its reason, the passing ones are not."""
    checked = Health(["s"])
    for check in (fine, refused, stuck, crashed):
        checked.register(check.__name__, check)

    await checked.start()
    await checked.stop()

    assert checked.failing == {
        "refused": "cannot reach the store",
        "stuck": "no answer within 0.05 s",
        "crashed": "RuntimeError: a defect",
    }


async def test_ready_when_all_pass() -> None:
    """Without a failing check the process is ready as soon as it has started."""
    checked = Health(["s"])
    checked.register("fine", fine)

    await checked.start()
    await checked.stop()

    assert checked.ready
