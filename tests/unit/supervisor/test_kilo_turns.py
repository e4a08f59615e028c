"""Kilo's events are followed whatever they are."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

from services.supervisor.kilo.turns import Turns
from services.supervisor.runtime import RuntimeEvent

ODD = {"sessionID": "s", "status": {"type": {"not": "a word"}}}


class Api:
    """A server that first says something unheard of."""

    def __init__(self) -> None:
        self.streams = 0

    async def events(self) -> AsyncGenerator[dict[str, Any], None]:
        self.streams += 1
        if self.streams == 1:
            yield {"type": "session.status", "properties": ODD}
        yield {"type": "server.connected", "properties": {}}
        await asyncio.Event().wait()


async def test_an_event_of_an_unknown_shape_does_not_end_the_following() -> None:
    """A turn's end would never be heard of again, and its agent wait for ever."""
    heard: list[RuntimeEvent] = []
    turns = Turns(Api(), Path("none.db"), "s", heard.append)  # type: ignore[arg-type]
    follower = asyncio.create_task(turns.follow())

    waiting = asyncio.create_task(turns.connected.wait())
    await asyncio.wait({waiting, follower}, timeout=5, return_when="FIRST_COMPLETED")

    assert turns.connected.is_set()
    assert ["server.connected"] == [event.name for event in heard]
    for task in (waiting, follower):
        task.cancel()
    await asyncio.gather(waiting, follower, return_exceptions=True)
