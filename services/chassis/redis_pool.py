"""What a write to Redis is worth: asked of the server, or vouched for by an operator.

The client and its scripts are found here as well.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Final

import structlog
from redis.asyncio.cluster import RedisCluster
from redis.exceptions import NoPermissionError, ResponseError

from services.chassis.clock import Clock, SystemClock
from services.chassis.parsers import natural_int, one_of
from services.chassis.redis_client import (
    SingleRedis,
    Store,
    asked,
    connect,
    forbidden,
    not_durable,
    store_errors,
)
from services.chassis.redis_script import Script
from services.chassis.redis_url import redis_url
from services.chassis.settings import var
from services.chassis.telemetry import Event

__all__ = [
    "Durability",
    "RedisSettings",
    "Script",
    "Store",
    "connect",
    "store_errors",
]

# An operator can change a server's configuration without cutting connections.
ASK_AGAIN_S: Final = 30.0
# A cluster's connections are not ours to watch, so we ask more often.
ASK_CLUSTER_AGAIN_S: Final = 2.0
_DURABLE: Final = {"appendonly": "yes", "appendfsync": "always"}

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class RedisSettings:
    """Where Redis is, and what a write there is worth."""

    url: str = var(
        "TOWNKEEPER_REDIS_URL",
        redis_url,
        help="the Redis or Valkey that keeps the metadata",
        example="redis://127.0.0.1:6379/0",
    )
    replicas: int = var(
        "TOWNKEEPER_REDIS_REPLICAS",
        natural_int,
        default=0,
        help="how many replicas must have a write before it counts",
    )
    durable: str = var(
        "TOWNKEEPER_REDIS_DURABLE",
        one_of("asked", "vouched"),
        default="asked",
        help="`vouched` where the server cannot be asked and you know it keeps writes",
    )

    @property
    def vouched(self) -> bool:
        return self.durable == "vouched"


class Durability:
    """Whether Redis keeps what it acknowledges: asked at first and after reconnects.

    Call `check` between a write and its acknowledgement.
    """

    def __init__(
        self, store: Store, *, vouched: bool = False, clock: Clock | None = None
    ) -> None:
        self._store = store
        self._vouched = vouched
        self._clock = clock or SystemClock()
        self._asking = asyncio.Lock()
        self._good_at: float | None = None
        self._good_for = -1

    async def check(self) -> None:
        """Raises NOT_DURABLE unless every write is on disk when it is answered."""
        if self._vouched or self._known():
            return
        async with self._asking:
            if not self._known():
                await self._ask()

    def _known(self) -> bool:
        if self._good_at is None or self._connects() != self._good_for:
            return False
        cluster = isinstance(self._store, RedisCluster)
        limit_s = ASK_CLUSTER_AGAIN_S if cluster else ASK_AGAIN_S
        return self._clock.monotonic() - self._good_at < limit_s

    def _connects(self) -> int:
        return self._store.connects if isinstance(self._store, SingleRedis) else 0

    async def _ask(self) -> None:
        # Taken first: a connection made while we ask is a reason to ask again.
        connects, now = self._connects(), self._clock.monotonic()
        for server in await self._configurations():
            wrong = [
                f"{k} {server.get(k)}"
                for k, v in _DURABLE.items()
                if server.get(k) != v
            ]
            if wrong:
                self._good_at = None
                _log.error(Event.STORE_NOT_DURABLE, found=wrong)
                raise not_durable(
                    f"Redis has {', '.join(wrong)}, set appendonly yes and appendfsync "
                    "always, or vouch with TOWNKEEPER_REDIS_DURABLE"
                )
        if self._good_at is None:
            _log.info(Event.STORE_DURABLE)
        self._good_at, self._good_for = now, connects

    async def _configurations(self) -> list[dict[str, str]]:
        with store_errors():
            try:
                raw = await asked(self._store, "CONFIG GET", *_DURABLE)
            except NoPermissionError as error:
                # It would say, but not to this user.
                why = f"{error}; or vouch with TOWNKEEPER_REDIS_DURABLE"
                raise forbidden(why) from error
            except ResponseError as error:
                raise not_durable(
                    "Redis does not say how it writes, "
                    "vouch with TOWNKEEPER_REDIS_DURABLE"
                ) from error
        return [_decoded(answer) for answer in raw]


def _decoded(answer: Any) -> dict[str, str]:
    if isinstance(answer, dict):
        return {_text(key): _text(value) for key, value in answer.items()}
    return {_text(k): _text(v) for k, v in zip(answer[::2], answer[1::2], strict=True)}


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
