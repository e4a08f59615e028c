"""Who waits for messages or changes of which town, and the hints on their way to them.

A hint is the id of an agent, or "@" and the slot of an instance that was handed leases;
"" says that some may have been missed, so list again. A nudge says nothing but that
there may be a change.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Final

from services.registry import refusals

# More agents than that at once, unread, and the watcher is not reading.
HINTS_MAX: Final = 1024
MISSED: Final = ""
HANDED: Final = "@"


class Watcher(AsyncIterator[str]):
    """The hints for one watch: each agent once, in order, at most HINTS_MAX."""

    def __init__(self, town: str) -> None:
        self._town = town
        self._agents: dict[str, None] = {}
        self._news = asyncio.Event()
        self._too_slow = False

    def tell(self, agent: str) -> None:
        if agent == MISSED:
            # Listing again names them all.
            self._agents.clear()
        self._agents[agent] = None
        self._too_slow = self._too_slow or len(self._agents) > HINTS_MAX
        if self._too_slow:
            self._agents.clear()
        self._news.set()

    async def __anext__(self) -> str:
        while True:
            if self._too_slow:
                raise refusals.watcher_too_slow(self._town)
            if self._agents:
                agent = next(iter(self._agents))
                del self._agents[agent]
                return agent
            self._news.clear()
            await self._news.wait()


class Watchers:
    """All watches of this process."""

    def __init__(self) -> None:
        self._by_town: dict[str, set[Watcher]] = {}

    @contextmanager
    def watching(self, town: str) -> Iterator[Watcher]:
        watcher = Watcher(town)
        self._by_town.setdefault(town, set()).add(watcher)
        try:
            yield watcher
        finally:
            self._by_town[town].discard(watcher)
            if not self._by_town[town]:
                del self._by_town[town]

    def tell(self, town: str, agent: str) -> None:
        for watcher in self._by_town.get(town, ()):
            watcher.tell(agent)

    def missed(self) -> None:
        """Says to all that hints may have been lost."""
        for town in self._by_town:
            self.tell(town, MISSED)


class Nudges:
    """Who waits for changes of which town: an event each, which they clear."""

    def __init__(self) -> None:
        self._by_town: dict[str, set[asyncio.Event]] = {}

    @contextmanager
    def of(self, town: str) -> Iterator[asyncio.Event]:
        event = asyncio.Event()
        self._by_town.setdefault(town, set()).add(event)
        try:
            yield event
        finally:
            self._by_town[town].discard(event)
            if not self._by_town[town]:
                del self._by_town[town]

    def tell(self, town: str) -> None:
        for event in self._by_town.get(town, ()):
            event.set()

    def tell_all(self) -> None:
        for town in self._by_town:
            self.tell(town)
