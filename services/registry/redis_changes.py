"""The log of a town's changes, in Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

from services.chassis.names import AgentName
from services.registry.changes import (
    PAGE_BYTES_MAX,
    PAGE_STEPS_MAX,
    Changes,
    Position,
    Step,
)
from services.registry.redis_hints import RedisHints
from services.registry.redis_specs import StoredSpecs
from services.registry.redis_town import RedisTown


class RedisChanges:
    """ChangeStore over Redis."""

    def __init__(self, town: RedisTown, hints: RedisHints, specs: StoredSpecs) -> None:
        self._redis = town
        self._specs = specs
        self._hints = hints

    async def read_changes(self, town: str, after: Position | None = None) -> Changes:
        start = after or Position("", 0, 0)
        listing = start.since is not None
        answer = await self._redis.ask(
            "read_changes",
            town,
            log=start.log,
            after=start.revision,
            since=start.since if listing else start.revision,
            limit=PAGE_STEPS_MAX,
            bytes_max=PAGE_BYTES_MAX,
        )
        log, since, head, complete, found = answer.values

        def position(revision: int) -> Position:
            return Position(log.decode(), revision, since if listing else None)

        steps = tuple(self._step(town, position(raw[0]), raw) for raw in found)
        end = position(head) if complete else steps[-1].position
        return Changes(steps, end, bool(complete))

    def nudges(self, town: str) -> AbstractContextManager[asyncio.Event]:
        return self._hints.nudges.of(town)

    def _step(self, town: str, position: Position, raw: Sequence[Any]) -> Step:
        if len(raw) == 2:
            return Step(position, deregistered=AgentName(town, raw[1].decode()))
        _, _, record = raw
        # What is large in a record: itself, and its spec or the entry that it came
        # from.
        size_bytes = len(record[1]) + 2 * len(record[2])
        agent = self._specs.listed(town, record)
        return Step(position, changed=agent, size_bytes=size_bytes)
