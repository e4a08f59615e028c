"""Channels to supervisors: shared, bounded, never closed under a request's hands."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from services.gateway.clients import SUPERVISORS_MAX, Services

NOWHERE = "127.0.0.1:1"


@pytest.fixture
async def services() -> AsyncIterator[Services]:
    opened = Services(NOWHERE, NOWHERE)
    yield opened
    await opened.close()


def address(number: int) -> str:
    return f"127.0.0.1:{number + 1}"


async def test_one_address_is_one_channel(services: Services):
    """Requests about one container share its connections."""
    for _ in range(3):
        async with services.supervisor(NOWHERE, "token"):
            assert 1 == services.supervisor_count


async def test_idle_channels_are_bounded(services: Services):
    """Containers come and go for ever, at ever new addresses."""
    for number in range(SUPERVISORS_MAX + 20):
        async with services.supervisor(address(number), "token"):
            pass

    assert SUPERVISORS_MAX == services.supervisor_count
    assert not services.knows(address(0))
    assert services.knows(address(SUPERVISORS_MAX + 19))


async def test_a_channel_in_use_stays_open(services: Services):
    """Closing it would cut a call that somebody waits for."""
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(services.supervisor(address(0), "token"))

        for number in range(1, SUPERVISORS_MAX + 20):
            async with services.supervisor(address(number), "token"):
                pass

        assert services.knows(address(0))
