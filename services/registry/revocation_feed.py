"""What was revoked, on its way to those who follow: this process first, then watchers.

One question a second to the store, however many towns there are; each watcher is told
the whole list of a town whenever it changed, and now and again that all is well.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

import structlog

from services.chassis.access import ANY_TOWN, Caller
from services.chassis.errors import ServiceError
from services.chassis.revocations import (
    NOTHING,
    RevocationList,
    Revoked,
    check_revoked,
)
from services.chassis.telemetry import Event
from services.registry.revocations import News
from services.registry.store import RevocationStore

ASK_EVERY_S: Final = 1.0
# Who hears nothing for five seconds counts itself as cut off.
SIGN_OF_LIFE_S: Final = 2.0

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a watch: a town's whole list, or just that all lists were told."""

    town: str = ""
    revoked: Revoked = NOTHING


SYNCED: Final = Step()


class RevocationFeed:
    """The lists as this process knows them; `run` keeps them up to date."""

    def __init__(self, store: RevocationStore, known: RevocationList) -> None:
        self._store = store
        self._known = known
        self._revision = 0
        self._towns: dict[str, Revoked] = {}
        self._watchers: set[_Watcher] = set()
        self._asking = asyncio.Lock()

    async def run(self) -> None:
        """Asks for ever; a store that is away is waited for."""
        away = False
        while True:
            try:
                await self.refresh()
                away = False
            except ServiceError as error:
                if not away:
                    _log.warning(Event.REVOCATIONS_STALE, error=error.message)
                away = True
            except Exception:
                # The root of a task: it ends with the process, not before.
                _log.exception(Event.REVOCATIONS_STALE)
            await asyncio.sleep(ASK_EVERY_S)

    async def refresh(self) -> None:
        """Learns what has changed; when it returns, this process acts on it."""
        async with self._asking:
            self._take(await self._store.revocations(self._revision))
        self._known.heard()
        for watcher in self._watchers:
            watcher.heard()

    def check(self, caller: Caller) -> None:
        """Raises TOKEN_REVOKED, by what is known as of the last `refresh`."""
        check_revoked(self._known, caller)

    def _take(self, news: News) -> None:
        self._revision = news.revision
        gone = self._towns.keys() - news.towns.keys() if news.whole else set()
        for town, revoked in (*news.towns.items(), *((t, NOTHING) for t in gone)):
            if revoked == self._towns.get(town, NOTHING):
                continue
            self._towns[town] = revoked
            if revoked == NOTHING:
                del self._towns[town]
            self._known.update(town, revoked)
            for watcher in self._watchers:
                watcher.tell(town)

    async def watch(self, town: str | None) -> AsyncIterator[Step]:
        """All lists, or one town's, then each that changes; SYNCED after the first
        ones and whenever there was nothing to say for a while."""
        watcher = _Watcher(town)
        self._watchers.add(watcher)
        try:
            for each in list(self._towns):
                watcher.tell(each)
            while True:
                for each in watcher.take():
                    yield Step(each, self._towns.get(each, NOTHING))
                # Cut off ourselves, we do not say that this is all.
                if not self._known.complaint():
                    yield SYNCED
                await watcher.wait()
        finally:
            self._watchers.discard(watcher)


class _Watcher:
    """The towns whose lists a watcher has not been told yet: each once, so one who
    reads slowly costs no memory."""

    def __init__(self, town: str | None) -> None:
        self._town = town
        self._towns: dict[str, None] = {}
        self._news = asyncio.Event()
        self._fresh = asyncio.Event()

    def tell(self, town: str) -> None:
        if self._town in (None, town) or town == ANY_TOWN:
            self._towns[town] = None
            self._news.set()

    def heard(self) -> None:
        """The store has answered: what was told is all that there is."""
        self._fresh.set()

    def take(self) -> list[str]:
        towns, self._towns = list(self._towns), {}
        self._news.clear()
        return towns

    async def wait(self) -> None:
        """Until there is news, or the time for a sign of life has come. A store that
        does not answer gives none: whoever follows us is cut off as well."""
        self._fresh.clear()
        try:
            async with asyncio.timeout(SIGN_OF_LIFE_S):
                await self._news.wait()
        except TimeoutError:
            await _first(self._news, self._fresh)


async def _first(*events: asyncio.Event) -> None:
    tasks = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
