"""Calls in progress: counted, bounded, refused and waited for."""

from __future__ import annotations

import asyncio

import pytest

from services.chassis.errors import Reason, ServiceError
from services.chassis.gate import Gate


async def test_counts() -> None:
    """Each entry counts until it leaves."""
    gate = Gate()

    gate.enter()
    gate.enter()
    gate.leave()

    assert gate.in_flight == 1


async def test_is_bounded() -> None:
    """The call too many is refused, and a place that is left can be taken."""
    gate = Gate(calls_max=1)
    gate.enter()

    with pytest.raises(ServiceError) as refused:
        gate.enter()
    gate.leave()
    gate.enter()

    assert refused.value.reason is Reason.TOO_MANY_CALLS
    assert gate.in_flight == 1


async def test_a_closed_gate_lets_nobody_in() -> None:
    """After closing, entering is refused; leaving still works."""
    gate = Gate()
    gate.enter()
    gate.close()

    with pytest.raises(ServiceError) as refused:
        gate.enter()
    gate.leave()

    assert refused.value.reason is Reason.SHUTTING_DOWN
    assert await gate.wait_idle(0)


async def test_waiting_has_a_limit() -> None:
    """A call that never ends does not hold up the wait for ever."""
    gate = Gate()
    gate.enter()

    assert not await gate.wait_idle(0.01)


async def test_the_last_to_leave_ends_the_wait() -> None:
    """The wait ends when the count is zero, not before."""
    gate = Gate()
    gate.enter()
    gate.enter()
    waiting = asyncio.create_task(gate.wait_idle(5))

    gate.leave()
    await asyncio.sleep(0)
    assert not waiting.done()
    gate.leave()

    assert await waiting


class TestUntilClosed:
    async def test_what_ends_by_itself(self) -> None:
        """A stream that ends keeps its result."""

        async def watch() -> str:
            return "done"

        assert await Gate().until_closed(watch()) == "done"

    async def test_what_fails_by_itself(self) -> None:
        """A stream that fails keeps its failure."""

        async def watch() -> None:
            raise KeyError

        with pytest.raises(KeyError):
            await Gate().until_closed(watch())

    async def test_closing_ends_it_and_cleans_up(self) -> None:
        """The stream's own clean-up is over when the refusal is raised."""
        gate, cleaned = Gate(), []

        async def watch() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0)
                cleaned.append(True)

        running = asyncio.create_task(gate.until_closed(watch()))
        await asyncio.sleep(0)
        gate.close()

        with pytest.raises(ServiceError) as ended:
            await running
        assert ended.value.reason is Reason.SHUTTING_DOWN
        assert cleaned == [True]

    async def test_a_caller_that_goes_away_takes_it_along(self) -> None:
        """Cancelling leaves no task behind."""
        before = asyncio.all_tasks()
        running = asyncio.create_task(Gate().until_closed(asyncio.Event().wait()))
        await asyncio.sleep(0)

        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

        assert asyncio.all_tasks() == before
