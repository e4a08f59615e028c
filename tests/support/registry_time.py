"""Letting time pass for a registry's store, without waiting for it."""

from __future__ import annotations

import json
from typing import Any, Protocol

from services.chassis.redis_pool import Store
from services.registry.redis_revocations import PREFIX as REVOCATIONS
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
        for kind in ("tokens", "runs"):
            for key in await self._store.keys(f"{REVOCATIONS}revoked_{kind}:*"):
                for field in await self._store.execute_command("HKEYS", key):
                    await self._store.hincrby(key, field.decode(), -older_ms)
        generations = f"{REVOCATIONS}revoked_generations"
        for town, raw in (await self._store.hgetall(generations)).items():
            value = json.loads(raw)
            value["forget"] -= older_ms
            await self._store.hset(generations, town, json.dumps(value))
        for name in ("revoked_due", "current_runs_due"):
            due = REVOCATIONS + name
            for town in await self._store.execute_command("ZRANGE", due, 0, -1):
                await self._store.execute_command("ZINCRBY", due, -older_ms, town)
        for key in await self._store.keys(f"{REVOCATIONS}current_runs:*"):
            runs: dict[Any, Any] = await self._store.hgetall(key)
            for agent, raw in runs.items():
                epoch, until, run = raw.decode().split(" ")
                older = f"{epoch} {int(until) - older_ms} {run}"
                await self._store.hset(key, agent, older)

    async def _hash(self, name: str, times: tuple[str, ...], seconds: float) -> None:
        key = self._keys[name]
        for field, raw in (await self._store.hgetall(key)).items():
            value = json.loads(raw)
            for each in times:
                if each in value:
                    value[each] -= round(seconds * 1000)
            await self._store.hset(key, field, json.dumps(value))
