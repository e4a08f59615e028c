"""Marks of damaged segments in Redis, and how far the scrub has come.

Keys, after `tk:snapshots:{t}:`
  rotten  set     digests of segments that are damaged or gone
  scrub   string  when the pass began (µs), and how many of its steps are done
"""

from __future__ import annotations

from collections.abc import Collection, Set
from typing import Any

from services.chassis.redis_pool import Store, store_errors
from services.snapshots.rot import Place


class RedisRot:
    """A RotLog."""

    def __init__(self, redis: Store) -> None:
        self._redis = redis

    async def marks(self, town: str) -> Set[bytes]:
        with store_errors():
            found: Any = await self._redis.smembers(_key(town, "rotten"))
        return {bytes.fromhex(str(name, "ascii")) for name in found}

    async def mark(self, town: str, digest: bytes) -> None:
        with store_errors():
            await self._redis.sadd(_key(town, "rotten"), digest.hex())

    async def unmark(self, town: str, digests: Collection[bytes]) -> None:
        if not digests:
            return
        with store_errors():
            names = [digest.hex() for digest in digests]
            await self._redis.srem(_key(town, "rotten"), *names)

    async def place(self, town: str) -> Place | None:
        with store_errors():
            found: Any = await self._redis.get(_key(town, "scrub"))
        if found is None:
            return None
        begun_us, done = found.split()
        return Place(int(begun_us), int(done))

    async def put_place(self, town: str, place: Place) -> None:
        with store_errors():
            text = f"{place.begun_us} {place.done}"
            await self._redis.set(_key(town, "scrub"), text)


def _key(town: str, what: str) -> str:
    return f"tk:snapshots:{{{town}}}:{what}"
