"""Watches of towns: what each is told, and one reading of the log for all of them.

A watch reads its own pages until it is at the end of the log, then goes on with the
town's feed. The feed reads each change once and keeps it for those that have not taken
it yet. When it is full it waits for them a while; who is still behind then is dropped.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left, bisect_right
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Final

import structlog

from services.chassis.errors import Reason, ServiceError
from services.chassis.names import AgentName
from services.chassis.tasks import ended
from services.chassis.telemetry import Event
from services.registry import refusals
from services.registry.changes import Position, Step
from services.registry.store import ChangeStore

_log = structlog.get_logger(__name__)
_revision = attrgetter("position.revision")


@dataclass(frozen=True, slots=True)
class Limits:
    """How far a feed goes for its watchers."""

    look_every_s: float = 1.0  # a hint may be lost, and leases expire without one
    rest_s: float = 0.05  # between two readings: a busy town is read 20 times a second
    patience_s: float = 10.0  # with those who are behind when no more can be kept
    steps_max: int = 1024
    bytes_max: int = 4 * 1024 * 1024


DEFAULTS: Final = Limits()


class Watches:
    """All watches of this process."""

    def __init__(self, store: ChangeStore, limits: Limits = DEFAULTS) -> None:
        self._store = store
        self._limits = limits
        self._feeds: dict[str, Feed] = {}

    async def watch(
        self, town: str, position: Position | None = None
    ) -> AsyncGenerator[Step, None]:
        """All records, a step that is `synced`, then changes; from a position, what
        came after it. Raises RESUME_TOKEN_EXPIRED, WATCHER_TOO_SLOW."""
        while True:
            # A watch may wait for days: what it was told must not wait with it.
            page = await self._store.read_changes(town, position)
            for step in page.steps:
                yield step
                del step
            position, complete = page.end, page.complete
            del page
            if not complete:
                continue
            if position.since is not None:
                position = replace(position, since=None)
                yield Step(position)
            async with (
                self._feed(town, position) as feed,
                aclosing(feed.follow(position)) as steps,
            ):
                async for step in steps:
                    yield step
                    del step

    @asynccontextmanager
    async def _feed(self, town: str, position: Position) -> AsyncIterator[Feed]:
        """The town's feed, which ends with its last user."""
        feed = self._feeds.get(town)
        if feed is None or feed.failure:
            feed = self._feeds[town] = Feed(self._store, town, position, self._limits)
        feed.users += 1
        try:
            yield feed
        finally:
            feed.users -= 1
            if not feed.users:
                if self._feeds.get(town) is feed:
                    del self._feeds[town]
                await ended(feed.task)


@dataclass(slots=True, eq=False)
class _Reader:
    """How far a watch has taken what the feed has."""

    revision: int


class Feed:
    """The end of one town's log, for all that follow it."""

    def __init__(
        self, store: ChangeStore, town: str, position: Position, limits: Limits
    ) -> None:
        self.users = 0
        self.failure: ServiceError | None = None
        self._store = store
        self._town = town
        self._limits = limits
        self._position = position  # read up to here
        self._floor = position.revision  # what came up to here is not kept any more
        self._steps: list[Step] = []  # by revision
        self._latest: dict[AgentName | None, Step] = {}  # the same, by agent
        self._size_bytes = 0
        self._readers: set[_Reader] = set()
        self._turn = asyncio.Event()  # set, and replaced, when there is more
        self.task = asyncio.create_task(self._run(), name=f"feed of {town}")

    async def follow(self, position: Position) -> AsyncGenerator[Step, None]:
        """Steps after the position; ends at once when they are not kept any more."""
        if position.revision < self._floor:
            return
        reader = _Reader(position.revision)
        self._readers.add(reader)
        try:
            while True:
                if reader.revision < self._floor:
                    raise refusals.watcher_too_slow(self._town)
                index = bisect_right(self._steps, reader.revision, key=_revision)
                if index < len(self._steps):
                    reader.revision = _revision(self._steps[index])
                    yield self._steps[index]
                elif self.failure:
                    # One of its own for each, since each is given a trace.
                    reason, message = self.failure.reason, self.failure.message
                    raise ServiceError(reason, message, **self.failure.metadata)
                else:
                    await self._turn.wait()
        finally:
            self._readers.discard(reader)

    async def _run(self) -> None:
        try:
            with self._store.nudges(self._town) as nudge:
                while True:
                    nudge.clear()
                    await self._read()
                    await asyncio.sleep(self._limits.rest_s)
                    with suppress(TimeoutError):
                        async with asyncio.timeout(self._limits.look_every_s):
                            await nudge.wait()
        except ServiceError as error:
            self.failure = error
        except Exception:
            # The root of a task: whoever follows must not wait for ever.
            _log.exception(Event.FEED_BROKEN)
            self.failure = ServiceError(
                Reason.INTERNAL, "cannot go on after an internal error: watch again"
            )
        finally:
            self._tell()

    async def _read(self) -> None:
        complete = False
        while not complete:
            page = await self._store.read_changes(self._town, self._position)
            for step in page.steps:
                self._keep(step)
            self._position, complete = page.end, page.complete
            if page.steps:
                self._tell()
            self._drop(self._slowest())
            await self._make_room()

    def _tell(self) -> None:
        turn, self._turn = self._turn, asyncio.Event()
        turn.set()

    def _keep(self, step: Step) -> None:
        """Adds a step, which takes the place of an earlier one of the same agent."""
        if old := self._latest.pop(step.name, None):
            del self._steps[bisect_left(self._steps, _revision(old), key=_revision)]
            self._size_bytes -= old.size_bytes
        self._steps.append(step)
        self._latest[step.name] = step
        self._size_bytes += step.size_bytes

    def _slowest(self) -> int:
        """What all have taken, but for those that are to be dropped."""
        taken = [one.revision for one in self._readers if one.revision >= self._floor]
        return min(taken, default=self._position.revision)

    async def _make_room(self) -> None:
        """Waits for those who are behind, then drops what is too much, and them."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._limits.patience_s
        while self._excess():
            if loop.time() > deadline:
                self._drop(_revision(self._steps[self._excess() - 1]))
            else:
                await asyncio.sleep(self._limits.rest_s)
                self._drop(self._slowest())

    def _excess(self) -> int:
        """How many steps are too many, or too large, to be kept."""
        kept, size_bytes = 0, 0
        for step in reversed(self._steps):
            size_bytes += step.size_bytes
            if kept == self._limits.steps_max or size_bytes > self._limits.bytes_max:
                break
            kept += 1
        return len(self._steps) - kept

    def _drop(self, revision: int) -> None:
        """Forgets what came up to a revision."""
        count = bisect_right(self._steps, revision, key=_revision)
        for step in self._steps[:count]:
            del self._latest[step.name]
            self._size_bytes -= step.size_bytes
        del self._steps[:count]
        self._floor = max(self._floor, revision)
