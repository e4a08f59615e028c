"""Hints between replicas: what any of them accepted, all of them hear.

One connection for all towns. While it is broken hints are lost, so everybody is told
to look again once it is back.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import structlog
from redis.exceptions import RedisError

from services.chassis.errors import Reason, ServiceError
from services.chassis.redis_pool import Store
from services.chassis.telemetry import Event
from services.registry.hints import Handed, Hint, Nudges, Offered, Watchers
from services.registry.redis_town import channel

_EVERY_TOWN: Final = channel("*", "*")
_AHEAD: Final = _EVERY_TOWN.partition("*")[0]
_OF_MESSAGES: Final = "hints"
_OF_LEASES: Final = "handed"
_OF_OFFERS: Final = "offered"
# How long a read may stay silent before it looks whether the connection lives.
READ_LIMIT_S: Final = 5.0
RECONNECT_PAUSE_S: Final = 0.2
READY_LIMIT_S: Final = 2.0

_log = structlog.get_logger(__name__)


class RedisHints:
    """Listens for as long as `listen` runs."""

    def __init__(self, store: Store) -> None:
        self.nudges = Nudges()
        self._store = store
        self._watchers = Watchers()
        self._listening = asyncio.Event()

    @asynccontextmanager
    async def watch(self, town: str) -> AsyncIterator[AsyncIterator[Hint]]:
        """Hints about what is accepted from now on."""
        with self._watchers.watching(town) as watcher:
            try:
                async with asyncio.timeout(READY_LIMIT_S):
                    await self._listening.wait()
            except TimeoutError as error:
                raise ServiceError(
                    Reason.STORE_UNAVAILABLE,
                    "cannot hear of messages, Redis does not answer: try again soon",
                ) from error
            yield watcher

    async def listen(self) -> None:
        """Passes hints on, and connects again whenever that breaks."""
        while True:
            try:
                await self._listen_once()
            except (RedisError, OSError, TimeoutError) as error:
                if self._listening.is_set():
                    _log.warning(Event.HINTS_BROKEN, error=type(error).__name__)
            except Exception:
                # The root of a task: it ends with the process, not before.
                _log.exception(Event.HINTS_BROKEN)
            finally:
                self._listening.clear()
            await asyncio.sleep(RECONNECT_PAUSE_S)

    async def _listen_once(self) -> None:
        async with self._store.pubsub() as pubsub:
            await pubsub.psubscribe(_EVERY_TOWN)
            while True:
                message = await pubsub.get_message(timeout=READ_LIMIT_S)
                if message is not None:
                    self._take(message)

    def _take(self, message: dict[str, Any]) -> None:
        match message["type"]:
            case "psubscribe":
                self._listening.set()
                # Also when the client connected again by itself.
                self._watchers.missed()
                self.nudges.tell_all()
            case "pmessage":
                name = message["channel"].decode().removeprefix(_AHEAD)
                town, _, what = name.rpartition("}:")
                if what == _OF_MESSAGES:
                    self._watchers.tell(town, message["data"].decode())
                elif what == _OF_LEASES:
                    self._watchers.tell(town, Handed(message["data"].decode()))
                elif what == _OF_OFFERS:
                    self._watchers.tell(town, Offered())
                # A message that waits is a change of its agent as well.
                self.nudges.tell(town)
