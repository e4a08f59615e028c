"""Lua scripts: sent by digest, and on request awaited on the replicas as well."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from importlib import resources
from typing import Any, Final

from redis.asyncio.cluster import PipelineCommand, RedisCluster
from redis.exceptions import (
    ClusterDownError,
    MovedError,
    NoScriptError,
    RedisError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from services.chassis.redis_client import (
    PrimaryRedis,
    SingleRedis,
    Store,
    not_durable,
    store_errors,
)
from services.chassis.redis_sentinel import on_the_primary

REPLICAS_WAIT_MS: Final = 2000
# Slots move one at a time, or to one replica: a second redirection is rare.
_REDIRECTS_MAX: Final = 3


class Script:
    """A Lua script, sent by its digest, and whole when Redis does not know it."""

    def __init__(self, source: str) -> None:
        self.source = source
        # Redis names scripts so; nothing rests on the strength of it.
        self.sha = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()
        self._sent_whole = False

    @classmethod
    def read(cls, package: str, name: str) -> Script:
        """The script that lies in a package, such as `services.registry.lua`."""
        return cls(resources.files(package).joinpath(name).read_text("utf-8"))

    async def run(
        self,
        store: Store,
        keys: Sequence[str | bytes],
        args: Sequence[str | bytes | int | float] = (),
        *,
        replicas: int = 0,
    ) -> Any:
        """Runs it; with `replicas`, returns once that many have what it wrote."""
        tail = [len(keys), *keys, *args]
        with store_errors():
            # A guess gone wrong would cost the wait for replicas once for nothing.
            if self._sent_whole or not replicas:
                with suppress(NoScriptError):
                    digest = ["EVALSHA", self.sha, *tail]
                    return await _send(store, keys, digest, replicas)
            answer = await _send(store, keys, ["EVAL", self.source, *tail], replicas)
            self._sent_whole = True
            return answer


async def _send(
    store: Store, keys: Sequence[str | bytes], command: list[Any], replicas: int
) -> Any:
    if not replicas:
        return await store.execute_command(*command)
    # On one connection: WAIT answers for the writes of its own connection only.
    wait = ["WAIT", replicas, REPLICAS_WAIT_MS]
    answer, reached = await _both(store, keys[0], command, wait)
    for result in (answer, reached):
        if isinstance(result, Exception):
            raise result
    if reached < replicas:
        if isinstance(store, PrimaryRedis):
            # Perhaps a fail-over left it behind, and nobody told it.
            await store.leave()
        raise not_durable(f"{reached} of {replicas} replicas have it")
    return answer


async def _both_on_a_node(
    store: RedisCluster, key: str, both: list[list[Any]]
) -> list[Any]:
    results: list[Any] = []
    for _ in range(_REDIRECTS_MAX):
        node = store.get_node_from_key(key)
        if node is None:
            raise ClusterDownError("no node for the key")
        commands = [PipelineCommand(n, *words) for n, words in enumerate(both)]
        try:
            await node.execute_pipeline(commands)
        except (RedisConnectionError, RedisTimeoutError):
            await _look_around(store, key)
            raise
        results = [command.result for command in commands]
        if isinstance(results[0], RedisConnectionError | RedisTimeoutError):
            await _look_around(store, key)
        if not isinstance(results[0], MovedError):
            break
        # Nothing was run there: the key is another node's now.
        await _look_around(store, key)
    return results


async def _look_around(store: RedisCluster, key: str) -> None:
    """The client learns who is where from its own commands alone: one, for its sake."""
    with suppress(RedisError):
        await store.exists(key)


async def _both(
    store: Store, key: str | bytes, first: list[Any], second: list[Any]
) -> list[Any]:
    if isinstance(store, RedisCluster):
        name = key.decode() if isinstance(key, bytes) else key
        return await _both_on_a_node(store, name, [first, second])
    return await on_the_primary(partial(_pipelined, store, first, second))


async def _pipelined(
    store: SingleRedis, first: list[Any], second: list[Any]
) -> list[Any]:
    pipeline = store.pipeline(transaction=False)
    pipeline.execute_command(*first)
    pipeline.execute_command(*second)
    return list(await pipeline.execute(raise_on_error=False))
