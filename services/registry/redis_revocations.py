"""What was revoked, of all towns, in Redis.

Kept beside the towns' own keys under one hash tag, so that a single question a second
tells a replica what changed, however many towns there are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

from services.chassis.names import AgentName
from services.chassis.redis_pool import Script
from services.registry import refusals
from services.registry.redis_town import RedisTown, source
from services.registry.revocations import ENTRIES_MAX, News, Revocation, Revoked

# `*` is no town's id.
KEYS: Final = tuple(
    f"tk:registry:{{*}}:{name}"
    for name in ("revoked", "revoked_changes", "revoked_due", "revoked_revision")
)


class RedisRevocations:
    """RevocationStore over Redis."""

    def __init__(self, redis: RedisTown) -> None:
        self._redis = redis
        self._revoking = Script(source("revoke"))
        self._telling = Script(source("read_revocations"))

    async def revoke(self, town: str, revocation: Revocation) -> int:
        asked = {
            "tokens": revocation.token_ids,
            "runs": revocation.runs,
            "everything": revocation.everything,
            "kept_for": _ms(revocation.kept_for),
            "entries_max": ENTRIES_MAX,
        }
        status, _, *values = await self._redis.change_apart(
            self._revoking, KEYS, [town, json.dumps(asked)]
        )
        if status == b"TOO_MANY":
            raise refusals.too_many_revocations(town, ENTRIES_MAX)
        return int(values[0])

    async def begin_run(
        self, name: AgentName, epoch: int, run: str, kept_for: timedelta
    ) -> None:
        asked = {
            "tokens": [],
            "runs": [],
            "begins": {"agent": name.agent, "epoch": epoch, "run": run},
            "kept_for": _ms(kept_for),
            "entries_max": ENTRIES_MAX,
        }
        status, _, *values = await self._redis.change_apart(
            self._revoking, KEYS, [name.town, json.dumps(asked)]
        )
        if status == b"FENCED":
            raise refusals.lease_fenced(name, "", "", int(values[0]))

    async def revocations(self, since: int = 0) -> News:
        answer = await self._redis.ask_apart(self._telling, KEYS, [since])
        _, revision, whole, found = answer
        towns = {town.decode(): _revoked(raw) for town, raw in found}
        return News(revision, towns, whole=bool(whole))


def _ms(span: timedelta) -> int:
    return round(span.total_seconds() * 1000)


def _revoked(raw: bytes) -> Revoked:
    if not raw:
        return Revoked()
    value: Mapping[str, Any] = json.loads(raw)
    return Revoked(
        token_ids=frozenset(value["tokens"]),
        runs=frozenset(value["runs"]),
        generation=value["generation"],
    )
