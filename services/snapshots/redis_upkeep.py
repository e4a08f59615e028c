"""Upkeep among replicas: a lease for each town, and a trash with times, in Redis.

Keys, after `tk:snapshots:{t}:`
  turn    string   which replica cleans the town; expires unless it is renewed
  scrub-turn       the same for reading its segments again
  trash   zset     segments that no record names: since when (ms); negative: condemned

A segment is deleted when it lay in the trash for a day: longer than any download or
commit takes that began while it was named. Being condemned comes between: one script
checks that the turn still holds and that nobody spared it, and from then on nobody can.
A replica that dies right there leaves it condemned, and after a day it is due again:
by then no request to delete it can still be on its way.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from functools import partial
from typing import Any, Final

from services.chassis.clock import Clock
from services.chassis.errors import Reason, ServiceError
from services.chassis.redis_pool import Durability, Script, Store, store_errors
from services.snapshots.renewal import renewing
from services.snapshots.upkeep import CLEANING

TRASHED_FOR: Final = timedelta(hours=24)
TURN_S: Final = 60.0
_TURN_MS: Final = round(TURN_S * 1000)
_DAY_MS: Final = round(TRASHED_FOR.total_seconds() * 1000)
_LUA: Final = "services.snapshots.lua"


class RedisUpkeep:
    """An Upkeep."""

    def __init__(
        self,
        redis: Store,
        durability: Durability,
        clock: Clock,
        *,
        replicas: int = 0,
        renew_every_s: float = TURN_S / 4,
    ) -> None:
        self._redis = redis
        self._durability = durability
        self._clock = clock
        self._replicas = replicas
        self._renew_every_s = renew_every_s
        self._spare = Script.read(_LUA, "spare.lua")
        self._condemn = Script.read(_LUA, "condemn.lua")
        self._renew = Script.read(_LUA, "turn_renew.lua")

    @asynccontextmanager
    async def turn(self, town: str, work: str = CLEANING) -> AsyncIterator[str]:
        turn, key = uuid.uuid4().hex, _key(town, work)
        with store_errors():
            mine = await self._redis.set(key, turn, nx=True, px=_TURN_MS)
        if not mine:
            yield ""
            return
        renew = partial(self._renew.run, self._redis, [key], [turn, _TURN_MS])
        try:
            async with renewing(renew, self._renew_every_s):
                yield turn
        finally:
            with suppress(ServiceError):  # then it expires
                await self._renew.run(self._redis, [key], [turn, 0])

    async def spare(self, town: str, digests: Collection[bytes]) -> None:
        if not digests:
            return
        names = [digest.hex() for digest in digests]
        answer = await self._spare.run(
            self._redis, [_key(town, "trash")], names, replicas=self._replicas
        )
        if answer != b"done":
            raise ServiceError(
                Reason.STORE_UNAVAILABLE,
                f"cannot use segment {answer.decode()}: it is being removed, as nobody "
                "named it for a day; try again later",
                segment=answer.decode(),
            )

    async def due(
        self, town: str, named: Collection[bytes], unnamed: Collection[bytes]
    ) -> Sequence[bytes]:
        key, now_ms = _key(town, "trash"), self._now_ms()
        with store_errors():
            found: Any = await self._redis.zrange(key, 0, -1, withscores=True)
            trash = {bytes.fromhex(str(name, "ascii")): score for name, score in found}
            if done := {
                digest
                for digest, at_ms in trash.items()
                if (digest in named or digest not in unnamed)
                # A name that was condemned may have a removal on its way.
                and (at_ms > 0 or now_ms + at_ms >= _DAY_MS)
            }:
                await self._redis.zrem(key, *(digest.hex() for digest in done))
            if fresh := set(unnamed) - trash.keys():
                marks = {digest.hex(): now_ms for digest in fresh}
                await self._redis.zadd(key, marks, nx=True)
        return sorted(
            digest
            for digest in set(unnamed) & trash.keys()
            if now_ms - abs(trash[digest]) >= _DAY_MS
        )

    async def condemn(self, town: str, turn: str, digest: bytes) -> bool:
        await self._durability.check()
        answer = await self._condemn.run(
            self._redis,
            [_key(town, "trash"), _key(town, CLEANING)],
            [turn, digest.hex(), self._now_ms(), _DAY_MS],
            replicas=self._replicas,
        )
        await self._durability.check()
        return bool(answer == b"done")

    async def removed(self, town: str, digest: bytes) -> None:
        with store_errors():
            await self._redis.zrem(_key(town, "trash"), digest.hex())

    def _now_ms(self) -> int:
        return round(self._clock.now().timestamp() * 1000)


def _key(town: str, what: str) -> str:
    return f"tk:snapshots:{{{town}}}:{what}"
