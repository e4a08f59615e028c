"""One way to reach Redis: time-outs, and what its failures mean.

Commands are never repeated by us: a connection that breaks after a command was sent
leaves open whether it ran. That is STORE_UNAVAILABLE, and whoever called decides.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeAlias, cast
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import redis.asyncio
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AskError,
    AuthenticationError,
    ClusterDownError,
    ClusterError,
    MovedError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from services.chassis.errors import Reason, ServiceError
from services.chassis.parsers import boolean, redis_url

# A command that blocks on purpose must block for less.
SOCKET_TIMEOUT_S: Final = 5.0
CONNECT_TIMEOUT_S: Final = 2.0
CONNECTIONS_MAX: Final = 64
# How long a start waits for a Redis that is starting as well.
PATIENCE_S: Final = 10.0
# Answers of a server that will be able again, or of the wrong server.
_PASSING: Final = (
    AskError,
    ClusterDownError,
    ClusterError,
    MovedError,
    ReadOnlyError,
    RedisConnectionError,
    RedisTimeoutError,
    TryAgainError,
)
_PASSING_ANSWERS: Final = ("BUSY", "LOADING", "MASTERDOWN", "MISCONF", "UNBLOCKED")


class SingleRedis(redis.asyncio.Redis):  # type: ignore[type-arg,unused-ignore]
    """A client that counts how often it connected."""

    connects: int = 0


Store: TypeAlias = SingleRedis | RedisCluster


async def connect(
    url: str,
    *,
    connections_max: int = CONNECTIONS_MAX,
    patience_s: float = PATIENCE_S,
) -> Store:
    """A client that answered a ping; close it with `aclose`."""
    store = _client(url, connections_max)
    try:
        async with asyncio.timeout(patience_s):
            while not await _answers(store):
                await asyncio.sleep(0.1)
    except TimeoutError:
        await store.aclose()
        raise _unavailable(f"no answer within {patience_s:g} s") from None
    except BaseException:
        await store.aclose()
        raise
    return store


def _client(url: str, connections_max: int) -> Store:
    parts = urlsplit(redis_url(url))
    options = dict(parse_qsl(parts.query))
    cluster = boolean(options.pop("cluster", "false"))
    plain = urlunsplit(parts._replace(query=urlencode(options)))
    shared: dict[str, Any] = {
        "protocol": 2,
        "socket_timeout": SOCKET_TIMEOUT_S,
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
        "health_check_interval": 30,
        "client_name": "townkeeper",
        "retry": Retry(NoBackoff(), 0),
    }
    if cluster:
        return RedisCluster.from_url(plain, max_connections=connections_max, **shared)

    async def count(connection: Any) -> None:
        await connection.on_connect()
        client.connects += 1

    pool = redis.asyncio.BlockingConnectionPool.from_url(
        plain,
        max_connections=connections_max,
        timeout=SOCKET_TIMEOUT_S,
        redis_connect_func=count,
        **shared,
    )
    client = cast(SingleRedis, SingleRedis.from_pool(pool))
    return client


async def _answers(store: Store) -> bool:
    try:
        if isinstance(store, RedisCluster):
            await store.initialize()
        await store.ping()
    except RedisError as error:
        # Waiting does not make a wrong password right; the client reports one as a
        # broken connection with the real cause behind it.
        refused = isinstance(error.__cause__ or error, AuthenticationError)
        if refused or not isinstance(error, _PASSING):
            raise _unavailable(str(error)) from error
        return False
    return True


@contextmanager
def store_errors() -> Iterator[None]:
    """Turns what Redis and its client raise into a ServiceError."""
    try:
        yield
    except OutOfMemoryError as error:
        raise ServiceError(
            Reason.STORAGE_FULL, "cannot store more, Redis is full: give it room"
        ) from error
    except _PASSING as error:
        raise _unavailable(type(error).__name__) from error
    except ResponseError as error:
        text = str(error)
        if text.startswith("NOREPLICAS"):
            raise not_durable("too few replicas are connected") from error
        if "No space left" in text:
            raise ServiceError(
                Reason.STORAGE_FULL,
                "cannot store more, Redis's disk is full: make room",
            ) from error
        if text.startswith(_PASSING_ANSWERS):
            raise _unavailable(text.partition(" ")[0]) from error
        raise


def _unavailable(why: str) -> ServiceError:
    return ServiceError(
        Reason.STORE_UNAVAILABLE, f"cannot reach Redis ({why}): try again soon", why=why
    )


def not_durable(why: str) -> ServiceError:
    return ServiceError(
        Reason.NOT_DURABLE, f"cannot call the write durable: {why}; repeat it", why=why
    )
