"""What is in use is not removed, and what is being removed is waited for."""

from __future__ import annotations

import asyncio

from services.snapshots.pins import Pins

TOWN = "town-1"
ONE, TWO = b"1" * 32, b"2" * 32


async def test_what_is_held_is_not_free() -> None:
    """A segment that somebody holds may not be removed; afterwards it may."""
    pins = Pins()

    async with pins.holding(TOWN, [ONE]):
        with pins.removing((TOWN, ONE)) as free:
            assert not free
        with pins.removing((TOWN, TWO)) as free:
            assert free
        with pins.removing(("town-2", ONE)) as free:
            assert free

    with pins.removing((TOWN, ONE)) as free:
        assert free


async def test_each_holder_counts() -> None:
    """The last of several holders lets go."""
    pins = Pins()

    async with pins.holding(TOWN, [ONE]):
        async with pins.holding(TOWN, [ONE, ONE]):
            pass
        with pins.removing((TOWN, ONE)) as free:
            assert not free


async def test_whoever_comes_during_a_removal_waits() -> None:
    """A segment is never half there for somebody who starts to use it."""
    pins = Pins()
    order: list[str] = []

    async def use() -> None:
        async with pins.holding(TOWN, [ONE]):
            order.append("used")

    with pins.removing((TOWN, ONE)) as free:
        user = asyncio.create_task(use())
        await asyncio.sleep(0)
        order.append("removed")
    await user

    assert free
    assert ["removed", "used"] == order


async def test_two_removals_do_not_meet() -> None:
    """A second collector leaves a segment to the first."""
    pins = Pins()

    with pins.removing((TOWN, ONE)) as first, pins.removing((TOWN, ONE)) as second:
        assert (True, False) == (first, second)


async def test_a_watch_sees_all_use() -> None:
    """Held before, held meanwhile and let go again: all of it counts as used."""
    pins = Pins()

    async with pins.holding(TOWN, [ONE]):
        with pins.watching() as used:
            async with pins.holding(TOWN, [TWO]):
                pass
    async with pins.holding(TOWN, [b"3" * 32]):
        pass

    assert {(TOWN, ONE), (TOWN, TWO)} == used


async def test_a_holder_that_gives_up_lets_go() -> None:
    """A call that is cut off while it waits leaves nothing held."""
    pins = Pins()

    async def use() -> None:
        async with pins.holding(TOWN, [ONE]):
            raise AssertionError("unreachable")

    with pins.removing((TOWN, ONE)):
        user = asyncio.create_task(use())
        await asyncio.sleep(0)
        user.cancel()
        await asyncio.gather(user, return_exceptions=True)

    with pins.removing((TOWN, ONE)) as free:
        assert free
