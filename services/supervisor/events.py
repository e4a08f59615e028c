"""Events of runs: the last 2,000 an agent, or 4 MiB, numbered in a boot, and watchers.

A resume token is `{boot}:{sequence}`; another boot's token is refused, so a watcher
knows that it may have missed something instead of missing it.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from services.chassis.clock import Clock
from services.chassis.errors import Reason, ServiceError

KEPT_MAX: Final = 2_000
# A watcher that is this far behind is dropped rather than held in memory for ever.
QUEUE_MAX: Final = 4_000
# A sixteenth of gRPC's default 4 MiB message; tool outputs can be larger.
DATA_BYTES_MAX: Final = 262_144
# Of all data that is kept of one agent, or that waits for one watcher, as JSON: a tool
# with a large output tells of all of it again with each line.
BYTES_MAX: Final = 4 << 20


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened in a run."""

    sequence: int
    agent: str
    type: str
    data: Mapping[str, object]
    at: datetime
    size_bytes: int = 0  # of the data, as JSON


class EventLog:
    """All events of one supervisor's boot."""

    def __init__(self, boot_id: str, clock: Clock) -> None:
        self._boot_id = boot_id
        self._clock = clock
        self._sequence = 0
        self._kept: dict[str, deque[Event]] = {}
        self._kept_bytes: dict[str, int] = {}
        self._dropped: dict[str, int] = {}  # agent → last sequence dropped
        self._watchers: set[_Watcher] = set()

    def append(self, agent: str, type_: str, data: Mapping[str, object]) -> Event:
        """Numbers, keeps and hands on one event."""
        self._sequence += 1
        data, size = _bounded(data)
        event = Event(self._sequence, agent, type_, data, self._clock.now(), size)
        kept = self._kept.setdefault(agent, deque())
        kept.append(event)
        held_bytes = self._kept_bytes.get(agent, 0) + size
        while len(kept) > KEPT_MAX or held_bytes > BYTES_MAX:
            dropped = kept.popleft()
            held_bytes -= dropped.size_bytes
            self._dropped[agent] = dropped.sequence
        self._kept_bytes[agent] = held_bytes
        for watcher in tuple(self._watchers):
            watcher.offer(event)
        return event

    def forget(self, agent: str) -> None:
        """Frees the events of an agent that is gone."""
        kept = self._kept.pop(agent, None)
        self._kept_bytes.pop(agent, None)
        if kept:
            self._dropped[agent] = kept[-1].sequence

    def token(self, event: Event) -> str:
        return f"{self._boot_id}:{event.sequence}"

    def after(self, token: str, agent: str | None) -> int:
        """The sequence that a token stands for.

        Raises RESUME_TOKEN_EXPIRED when events after it were dropped, or when it
        belongs to another boot.
        """
        if not token:
            return 0
        boot, _, number = token.rpartition(":")
        if boot != self._boot_id or not number.isdecimal() or len(number) > 18:
            raise _expired("it is of another boot of the supervisor")
        sequence = int(number)
        agents = self._dropped if agent is None else {agent: 0}
        if any(self._dropped.get(name, 0) > sequence for name in agents):
            raise _expired("events after it were dropped")
        return sequence

    def kept(self, after: int, agent: str | None) -> list[Event]:
        """The events kept, in order."""
        chosen = self._kept.values() if agent is None else [self._kept.get(agent, ())]
        found = [event for events in chosen for event in events]
        return sorted(
            (event for event in found if event.sequence > after),
            key=lambda event: event.sequence,
        )

    async def watch(self, token: str, agent: str | None) -> AsyncGenerator[Event, None]:
        """Kept events, then new ones, without gap or duplicate."""
        after = self.after(token, agent)
        watcher = _Watcher(agent)
        self._watchers.add(watcher)
        try:
            # No await between the two lines above and this one: nothing is missed.
            for event in self.kept(after, agent):
                yield event
            while True:
                yield await watcher.next()
        finally:
            self._watchers.discard(watcher)


class _Watcher:
    def __init__(self, agent: str | None) -> None:
        self._agent = agent
        self._queue: asyncio.Queue[Event | None] = asyncio.Queue(QUEUE_MAX + 1)
        self._slow = False
        self._waiting_bytes = 0

    def offer(self, event: Event) -> None:
        if self._agent not in (None, event.agent) or self._slow:
            return
        self._waiting_bytes += event.size_bytes
        if self._queue.qsize() >= QUEUE_MAX or self._waiting_bytes > BYTES_MAX:
            self._slow = True
            self._queue.put_nowait(None)
            return
        self._queue.put_nowait(event)

    async def next(self) -> Event:
        event = await self._queue.get()
        if event is None:
            raise ServiceError(
                Reason.WATCHER_TOO_SLOW,
                "cannot keep more events for this watcher: watch again, read faster",
                queue_max=QUEUE_MAX,
            )
        self._waiting_bytes -= event.size_bytes
        return event


def _bounded(data: Mapping[str, object]) -> tuple[Mapping[str, object], int]:
    """The data, or what stands for too much of it; and how much that is."""
    size = len(json.dumps(data, default=str))
    if size <= DATA_BYTES_MAX:
        return data, size
    return {"truncated": True, "size_bytes": size}, 0


def _expired(why: str) -> ServiceError:
    return ServiceError(
        Reason.RESUME_TOKEN_EXPIRED,
        f"cannot resume from this token: {why}; watch again without a token",
    )
