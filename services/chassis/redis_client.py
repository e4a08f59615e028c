"""One way to reach Redis: time-outs, and what its failures mean.

Commands are never repeated by us: a connection that breaks after a command was sent
leaves open whether it ran. That is STORE_UNAVAILABLE, and whoever called decides. But
for one case, where it is known that it did not: see `redis_sentinel.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, TypeAlias, cast
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import redis.asyncio
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import MasterNotFoundError
from redis.backoff import NoBackoff
from redis.exceptions import (
    AskError,
    AuthenticationError,
    ClusterDownError,
    ClusterError,
    MovedError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from services.chassis.errors import Reason, ServiceError
from services.chassis.parsers import boolean
from services.chassis.redis_sentinel import (
    NotPrimaryError,
    check_primary,
    on_the_primary,
    sentinel_pool,
)
from services.chassis.redis_url import asks_sentinels, redis_url, sentinel_url

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
_PASSING_ANSWERS: Final = (
    "BUSY",
    "LOADING",
    "MASTERDOWN",
    "MISCONF",
    "UNBLOCKED",
    # It became a replica in the moment before.
    "WAIT cannot be used",
)
# What a command in a script is refused with; the script and its line follow.
_IN_SCRIPT: Final = "ACL failure in script: "
# What the client calls defects of ours as well, it says of a cluster that is away.
_CLUSTER_AWAY: Final = (
    "All slots are not covered",
    "Redis Cluster cannot be connected",
    "startup_nodes could not agree",
)


class SingleRedis(redis.asyncio.Redis):  # type: ignore[type-arg,unused-ignore]
    """A client that counts how often it connected."""

    connects: int = 0


class PrimaryRedis(SingleRedis):
    """The same for the server that Sentinels call the primary."""

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        return await on_the_primary(partial(super().execute_command, *args, **options))

    async def leave(self) -> None:
        """Hangs up where nothing is under way, so that the Sentinels are asked anew."""
        await self.connection_pool.disconnect(inuse_connections=False)


Store: TypeAlias = SingleRedis | RedisCluster


async def connect(
    url: str,
    *,
    connections_max: int = CONNECTIONS_MAX,
    patience_s: float = PATIENCE_S,
) -> Store:
    """A client that answered a ping; close it with `aclose`."""
    store = _client(url, connections_max)
    silence = ""
    try:
        async with asyncio.timeout(patience_s):
            while silence := await _silence(store):
                await asyncio.sleep(0.1)
    except TimeoutError:
        await store.aclose()
        why = f": {silence}" if silence else ""
        raise _unavailable(f"no answer within {patience_s:g} s{why}") from None
    except BaseException:
        await store.aclose()
        raise
    return store


def _client(url: str, connections_max: int) -> Store:
    shared: dict[str, Any] = {
        "max_connections": connections_max,
        "protocol": 2,
        "socket_timeout": SOCKET_TIMEOUT_S,
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
        "health_check_interval": 30,
        "client_name": "townkeeper",
        "retry": Retry(NoBackoff(), 0),
    }
    sentinels = asks_sentinels(url)

    async def count(connection: Any) -> None:
        await connection.on_connect()
        if sentinels:
            await check_primary(connection)
        client.connects += 1

    pooled = {**shared, "timeout": SOCKET_TIMEOUT_S, "redis_connect_func": count}
    if sentinels:
        pool = sentinel_pool(sentinel_url(url), **pooled)
        client = cast(SingleRedis, PrimaryRedis.from_pool(pool))
        return client
    parts = urlsplit(redis_url(url))
    options = dict(parse_qsl(parts.query))
    cluster = boolean(options.pop("cluster", "false"))
    plain = urlunsplit(parts._replace(query=urlencode(options)))
    if cluster:
        return RedisCluster.from_url(plain, **shared)
    single = redis.asyncio.BlockingConnectionPool.from_url(plain, **pooled)
    client = cast(SingleRedis, SingleRedis.from_pool(single))
    return client


async def _silence(store: Store) -> str:
    """Why it does not answer yet; empty if it does."""
    try:
        if isinstance(store, RedisCluster):
            await store.initialize()
        await store.ping()
    except (RedisError, RedisClusterException) as error:
        # Waiting does not make a wrong password right, and gives nobody a right; the
        # client can report both as a broken connection with the real cause behind it.
        for cause in _causes(error):
            if isinstance(cause, NoPermissionError):
                raise forbidden(str(cause)) from error
            if isinstance(cause, AuthenticationError):
                raise _unavailable(str(cause)) from error
        if not _passes(error):
            raise _unavailable(str(error)) from error
        return _shown(error)
    return ""


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what it was raised after, from the last to the first."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _passes(error: Exception) -> bool:
    if isinstance(error, RedisClusterException):
        return str(error).startswith(_CLUSTER_AWAY)
    return isinstance(error, _PASSING)


def _shown(error: Exception) -> str:
    if isinstance(error, MasterNotFoundError):
        # Of Sentinels that did not answer, its text has all but the login.
        if AuthenticationError.__name__ in str(error):
            return "the Sentinels want another login"
        return "no Sentinel knows a primary of that service"
    if isinstance(error, NotPrimaryError):
        return str(error)
    if isinstance(error, RedisClusterException):
        return str(error.__cause__ or error)
    return type(error).__name__


async def asked(store: Store, *command: str) -> list[Any]:
    """The answers of every server that takes writes."""
    client: Any = store
    if isinstance(store, RedisCluster):
        # By the client, not node by node: so it learns when one is gone.
        servers = store.get_primaries()
        answers = await client.execute_command(*command, target_nodes=servers)
        return [answers] if len(servers) == 1 else list(answers.values())
    return [await client.execute_command(*command)]


@contextmanager
def store_errors() -> Iterator[None]:
    """Turns what Redis and its client raise into a ServiceError."""
    try:
        yield
    except OutOfMemoryError as error:
        raise ServiceError(
            Reason.STORAGE_FULL, "cannot store more, Redis is full: give it room"
        ) from error
    except NoPermissionError as error:
        raise forbidden(str(error)) from error
    except (*_PASSING, RedisClusterException) as error:
        if not _passes(error):
            raise
        raise _unavailable(_shown(error)) from error
    except ResponseError as error:
        if (refusal := _refusal(str(error))) is None:
            raise
        raise refusal from error
    except AttributeError as error:
        if not _of_client(error):
            raise
        raise _unavailable("the client hung up") from error


def _refusal(text: str) -> ServiceError | None:
    """What an answer of Redis means; None if it is our mistake."""
    if text.startswith("NOREPLICAS"):
        return not_durable("too few replicas are connected")
    if "No space left" in text:
        return ServiceError(
            Reason.STORAGE_FULL,
            "cannot store more, Redis's disk is full: make room",
        )
    if _IN_SCRIPT in text:
        return forbidden(text.partition(_IN_SCRIPT)[2].partition(" script: ")[0])
    if text.startswith(_PASSING_ANSWERS):
        return _unavailable(text.partition(" ")[0])
    return None


def _of_client(error: AttributeError) -> bool:
    """Whether the client stumbled: that of a cluster takes a server that has gone out
    of its list and hangs up, also where a command is just being sent or read."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    module = "" if trace is None else trace.tb_frame.f_globals.get("__name__", "")
    return str(module).startswith("redis.")


def _unavailable(why: str) -> ServiceError:
    return ServiceError(
        Reason.STORE_UNAVAILABLE, f"cannot reach Redis ({why}): try again soon", why=why
    )


def forbidden(why: str) -> ServiceError:
    return ServiceError(
        Reason.STORE_FORBIDDEN,
        f"cannot use Redis, it refuses us a right ({why}): give its user those in "
        "docs/security.md",
        why=why,
    )


def not_durable(why: str) -> ServiceError:
    return ServiceError(
        Reason.NOT_DURABLE, f"cannot call the write durable: {why}; repeat it", why=why
    )
