"""The store over Redis or Valkey, put together, and the tasks that it lives by."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from services.chassis.redis_pool import Durability, Store
from services.chassis.redis_rights import check_rights, commands_of
from services.chassis.tasks import ended
from services.registry.redis_agents import RedisAgents
from services.registry.redis_callbacks import RedisCallbacks
from services.registry.redis_changes import RedisChanges
from services.registry.redis_hints import RedisHints
from services.registry.redis_inbox import RedisInbox
from services.registry.redis_leases import RedisLeases
from services.registry.redis_nudges import RedisNudges
from services.registry.redis_revocations import RedisRevocations
from services.registry.redis_specs import StoredSpecs
from services.registry.redis_town import (
    STORE_KEY,
    RedisTown,
    Terms,
    channel,
    open_store,
)

# Called past the scripts.
_COMMANDS: Final = frozenset({"HSETNX"})
_CHANNELS: Final = (
    ("PUBLISH", channel("town")),
    ("PSUBSCRIBE", channel("*", "*")),
)


class RedisStore(
    RedisAgents,
    RedisLeases,
    RedisInbox,
    RedisCallbacks,
    RedisNudges,
    RedisChanges,
    RedisRevocations,
):
    """RegistryStore over Redis."""

    def __init__(self, town: RedisTown, hints: RedisHints, specs: StoredSpecs) -> None:
        RedisAgents.__init__(self, town, specs)
        RedisRevocations.__init__(self, town)
        RedisInbox.__init__(self, town, hints)
        RedisChanges.__init__(self, town, hints, specs)

    async def check(self) -> None:
        await self._redis.check()


@asynccontextmanager
async def opened(
    store: Store,
    *,
    environment: str,
    terms: Terms | None = None,
    replicas: int = 0,
    vouched: bool = False,
    specs: StoredSpecs | None = None,
) -> AsyncIterator[RedisStore]:
    """The store, marked as ours, while the block runs. Raises STORE_FOREIGN and
    STORE_FORBIDDEN."""
    commands = commands_of("services.registry.lua") | _COMMANDS
    await check_rights(
        store, commands, STORE_KEY, _CHANNELS, replicas=replicas, vouched=vouched
    )
    await open_store(store, environment)
    durability = Durability(store, vouched=vouched)
    town = RedisTown(store, durability, terms=terms, replicas=replicas)
    hints = RedisHints(store)
    await town.serve()
    tasks = [
        asyncio.create_task(town.keep_serving(), name="serving mark"),
        asyncio.create_task(hints.listen(), name="hints"),
    ]
    try:
        yield RedisStore(town, hints, specs or StoredSpecs())
    finally:
        await ended(*tasks)
