"""Nudges, in Redis."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Final

from services.chassis.names import AgentName, NudgeName
from services.registry.nudges import (
    DELIVERED_KEPT_S,
    DELIVERED_MAX,
    PENDING_MAX,
    Mode,
    Nudge,
    NudgeContent,
    Priority,
)
from services.registry.redis_town import RedisTown, time_of

_DELIVERED_KEPT_MS: Final = round(DELIVERED_KEPT_S * 1000)


class RedisNudges:
    """NudgeStore over Redis."""

    def __init__(self, town: RedisTown) -> None:
        self._redis = town

    async def enqueue_nudge(
        self, name: NudgeName, content: NudgeContent
    ) -> tuple[Nudge, bool]:
        answer = await self._redis.change(
            "enqueue_nudge",
            name.town,
            agent=name.agent,
            nudge=name.nudge,
            text=content.text,
            mode=content.mode.value,
            priority=content.priority.value,
            source=content.source,
            ttl=round(content.ttl_s * 1000),
            digest=content.digest,
            pending_max=PENDING_MAX,
            delivered_kept=_DELIVERED_KEPT_MS,
        )
        created, raw = answer.values
        meta = json.loads(raw)
        times = time_of(meta["created"]), _expiry(meta)
        return Nudge(name, content, *times), bool(created)

    async def list_nudges(self, name: AgentName) -> list[Nudge]:
        answer = await self._redis.ask("list_nudges", name.town, agent=name.agent)
        return [_nudge(name, raw) for raw in answer.values[0]]

    async def acknowledge_nudge(self, name: NudgeName) -> None:
        await self._redis.change(
            "acknowledge_nudge",
            name.town,
            agent=name.agent,
            nudge=name.nudge,
            delivered_kept=_DELIVERED_KEPT_MS,
            delivered_max=DELIVERED_MAX,
        )


def _nudge(name: AgentName, raw: bytes) -> Nudge:
    meta = json.loads(raw)
    created, expires = time_of(meta["created"]), _expiry(meta)
    content = NudgeContent(
        meta["text"],
        Mode(meta["mode"]),
        Priority(meta["priority"]),
        meta["source"],
        (expires - created).total_seconds() if expires else 0.0,
    )
    return Nudge(
        NudgeName(name.town, name.agent, meta["id"]), content, created, expires
    )


def _expiry(meta: dict[str, int]) -> datetime | None:
    return time_of(meta["expires"]) if "expires" in meta else None
