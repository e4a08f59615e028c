"""Letting time pass for a registry's store, without waiting for it."""

from __future__ import annotations

import json
from typing import Protocol

from services.chassis.redis_pool import Store
from services.registry.redis_revocations import KEYS as REVOCATION_KEYS
from services.registry.redis_town import STORE_KEY, TOWN_KEYS, town_keys
from tests.support.clock import ManualClock


class Time(Protocol):
    """Something that can be made to pass."""

    async def passes(self, seconds: float) -> None: ...


class ClockTime:
    """For a store that lives by a clock of ours."""

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock

    async def passes(self, seconds: float) -> None:
        self._clock.advance(seconds)


class RedisTime:
    """For Redis, whose clock is its own: makes all that is stored so much older."""

    def __init__(self, store: Store, town: str) -> None:
        self._store = store
        self._keys = dict(zip(TOWN_KEYS, town_keys(town), strict=True))

    async def passes_unserved(self, seconds: float) -> None:
        """Time in which no registry served."""
        await self.passes(seconds)
        await self._store.hincrby(STORE_KEY, "served", -round(seconds * 1000))

    async def passes(self, seconds: float) -> None:
        for field in await self._store.hkeys(STORE_KEY):
            if field in {b"gap_start", b"gap_until"}:
                older_ms = -round(seconds * 1000)
                await self._store.hincrby(STORE_KEY, field.decode(), older_ms)
        await self._hash("instances", ("deadline", "registered"), seconds)
        await self._revocations(seconds)
        await self._hash("messages", ("accepted", "settled"), seconds)
        await self._nudges(seconds)
        for name in ("settled", "request_times", "free", "deadlines"):
            key = self._keys[name]
            older_ms = round(-seconds * 1000)
            for member in await self._store.execute_command("ZRANGE", key, 0, -1):
                await self._store.execute_command("ZINCRBY", key, older_ms, member)

    async def _nudges(self, seconds: float) -> None:
        key = self._keys["nudges"]
        for agent, raw in (await self._store.hgetall(key)).items():
            nudges = json.loads(raw)
            for nudge in nudges:
                for each in {"created", "expires", "delivered"} & nudge.keys():
                    nudge[each] -= round(seconds * 1000)
            await self._store.hset(key, agent, json.dumps(nudges))

    async def _revocations(self, seconds: float) -> None:
        older_ms = round(seconds * 1000)
        lists, _, due, _ = REVOCATION_KEYS
        for town, raw in (await self._store.hgetall(lists)).items():
            value = json.loads(raw)
            value["forget"] -= older_ms
            for kind in ("tokens", "runs"):
                value[kind] = {id: at - older_ms for id, at in value[kind].items()}
            for run in value["current"].values():
                run["forget"] -= older_ms
            await self._store.hset(lists, town, json.dumps(value))
        for town in await self._store.execute_command("ZRANGE", due, 0, -1):
            await self._store.execute_command("ZINCRBY", due, -older_ms, town)

    async def _hash(self, name: str, times: tuple[str, ...], seconds: float) -> None:
        key = self._keys[name]
        for field, raw in (await self._store.hgetall(key)).items():
            value = json.loads(raw)
            for each in times:
                if each in value:
                    value[each] -= round(seconds * 1000)
            await self._store.hset(key, field, json.dumps(value))
