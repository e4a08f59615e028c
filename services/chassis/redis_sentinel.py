"""The primary that Sentinels name: they are asked at each new connection.

What they say can be seconds old, so the server that they name is asked as well, and a
command that it refuses as a replica is given to its successor.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

from redis.asyncio import BlockingConnectionPool
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import (
    MasterNotFoundError,
    Sentinel,
    SentinelConnectionPool,
)
from redis.backoff import ExponentialWithJitterBackoff, NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ReadOnlyError
from redis.exceptions import TimeoutError as RedisTimeoutError

from services.chassis.redis_url import Login, SentinelUrl

T = TypeVar("T")

# Past one that is silent there must be time to ask the next, and the primary.
SENTINEL_TIMEOUT_S: Final = 1.0
_ADDRESS: Final = "SENTINEL GET-MASTER-ADDR-BY-NAME"
# A second and a half at most, within what a caller waits for Redis.
_AGAIN: Final = Retry(ExponentialWithJitterBackoff(cap=0.4, base=0.05), 5)


class NotPrimaryError(RedisConnectionError):
    """The server that the Sentinels name is a replica, still or already."""


class Sentinels(Sentinel):
    """Asked for the address by name, as they want to be.

    The client reads it from their list of services, which names the old primary until
    the last replica follows the new one: by then the old one can be back, and calls
    itself a primary for a while.
    """

    async def discover_master(self, service_name: str) -> tuple[str, int]:
        """Host and port. Raises MasterNotFoundError, with what each of them said."""
        said = []
        for sentinel in list(self.sentinels):
            client: Any = sentinel
            try:
                found = await client.execute_command(_ADDRESS, service_name)
            except (RedisConnectionError, RedisTimeoutError) as error:
                said.append(repr(error))
                continue
            if found:
                # Next time the one that answered is asked first.
                self.sentinels.remove(sentinel)
                self.sentinels.insert(0, sentinel)
                host, port = found
                return str(host, "utf-8"), int(port)
        raise MasterNotFoundError(f"no primary of {service_name}: {', '.join(said)}")


class SentinelPool(SentinelConnectionPool, BlockingConnectionPool):
    """Waits for a free connection, and closes those to the Sentinels with its own."""

    async def aclose(self) -> None:
        await super().aclose()
        await self.sentinel_manager.aclose()


def sentinel_pool(url: SentinelUrl, **options: Any) -> SentinelPool:
    """Connections to the primary; the options are those of a pool and of each."""
    sentinels: Any = Sentinels(  # type: ignore[no-untyped-call]
        url.sentinels,
        sentinel_kwargs={
            **_words(url.sentinel_login),
            "ssl": url.tls,
            "protocol": 2,
            "socket_timeout": SENTINEL_TIMEOUT_S,
            "socket_connect_timeout": SENTINEL_TIMEOUT_S,
            "retry": Retry(NoBackoff(), 0),
        },
    )
    options |= {"db": url.db, "ssl": url.tls, **_words(url.login)}
    pool: Any = SentinelPool
    made: SentinelPool = pool(url.service, sentinels, **options)
    return made


async def check_primary(connection: Any) -> None:
    """Raises NotPrimaryError if a replica is at the other end."""
    await connection.send_command("ROLE")
    role, *_ = await connection.read_response()
    if role != b"master":
        raise NotPrimaryError("the Sentinels name a replica")


async def on_the_primary(do: Callable[[], Awaitable[T]]) -> T:
    """What `do` returns: it is called again where a replica refused it.

    That is the one failure after which it is sure that nothing was done.
    """
    return await _AGAIN.call_with_retry(do, _pause, is_retryable=_refused)


def _refused(error: Exception) -> bool:
    # The client hides the answer READONLY behind the error that makes it reconnect.
    return isinstance(error, NotPrimaryError) or isinstance(
        error.__context__, ReadOnlyError
    )


async def _pause(error: Exception) -> None:
    """Nothing is to be done before the pause that follows."""


def _words(login: Login) -> dict[str, str | None]:
    return {"username": login.username or None, "password": login.password or None}
