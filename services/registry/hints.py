"""Who waits for messages or changes of which town, and the hints on their way to them.

A hint is the id of an agent, or who was handed leases, or that some are on offer; ""
says that some may have been missed, so list again. A nudge says nothing but that there
may be a change.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, TypeAlias

from services.registry import refusals

# More agents than that at once, unread, and the watcher is not reading.
HINTS_MAX: Final = 1024
MISSED: Final = ""


@dataclass(frozen=True, slots=True)
class Handed:
    """The slot of an instance that was handed leases."""

    slot: str


@dataclass(frozen=True, slots=True)
class Offered:
    """Somebody has gone, and what it leased is for anybody to claim."""


Hint: TypeAlias = str | Handed | Offered


class Watcher(AsyncIterator[Hint]):
    """The hints for one watch: each once, in order, at most HINTS_MAX."""

    def __init__(self, town: str) -> None:
        self._town = town
        self._hints: dict[Hint, None] = {}
        self._news = asyncio.Event()
        self._too_slow = False

    def tell(self, hint: Hint) -> None:
        if hint == MISSED:
            # Listing again names all agents; heartbeats tell of leases.
            self._hints.clear()
        self._hints[hint] = None
        self._too_slow = self._too_slow or len(self._hints) > HINTS_MAX
        if self._too_slow:
            self._hints.clear()
        self._news.set()

    async def __anext__(self) -> Hint:
        while True:
            if self._too_slow:
                raise refusals.watcher_too_slow(self._town)
            if self._hints:
                hint = next(iter(self._hints))
                del self._hints[hint]
                return hint
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

    def tell(self, town: str, hint: Hint) -> None:
        for watcher in self._by_town.get(town, ()):
            watcher.tell(hint)

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
