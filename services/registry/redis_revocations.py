"""What was revoked, of all towns, in Redis.

Kept beside the towns' own keys under one hash tag, so that a single question a second
tells a replica what changed, however many towns there are. Each entry is a field of its
own: thousands of runs that begin at once must not write a list anew for each of them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from services.chassis.names import AgentName
from services.chassis.redis_pool import Script
from services.registry import refusals
from services.registry.redis_town import RedisTown, source
from services.registry.redis_values import texts
from services.registry.revocations import ENTRIES_MAX, News, Revocation, Revoked

# `*` is no town's id.
PREFIX: Final = "tk:registry:{*}:"
_SHARED: Final = tuple(
    PREFIX + name
    for name in (
        "revoked_changes",
        "revoked_due",
        "revoked_revision",
        "revoked_generations",
        "current_runs_due",
    )
)
# A town's name follows.
_TOKENS: Final = f"{PREFIX}revoked_tokens:"
_RUNS: Final = f"{PREFIX}revoked_runs:"
_CURRENT: Final = f"{PREFIX}current_runs:"
_OLD: Final = f"{PREFIX}revoked"


class RedisRevocations:
    """RevocationStore over Redis."""

    def __init__(self, redis: RedisTown) -> None:
        self._redis = redis
        prelude = source("revocations")
        self._revoking = Script(prelude + source("revoke"))
        self._telling = Script(prelude + source("read_revocations"))

    async def revoke(self, town: str, revocation: Revocation) -> int:
        asked = {
            "tokens": revocation.token_ids,
            "runs": revocation.runs,
            "everything": revocation.everything,
            "kept_for": _ms(revocation.kept_for),
            "entries_max": ENTRIES_MAX,
        }
        status, _, *values = await self._redis.change_apart(
            self._revoking, _keys(town), [town, json.dumps(asked)]
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
            self._revoking, _keys(name.town), [name.town, json.dumps(asked)]
        )
        if status == b"FENCED":
            raise refusals.lease_fenced(name, "", "", int(values[0]))

    async def revocations(self, since: int = 0) -> News:
        keys = [*_SHARED, _TOKENS, _RUNS, _CURRENT, _OLD]
        answer = await self._redis.ask_apart(self._telling, keys, [since])
        _, revision, whole, found = answer
        towns = {town.decode(): _revoked(*raw) for town, *raw in found}
        return News(revision, towns, whole=bool(whole))


def _keys(town: str) -> list[str]:
    return [*_SHARED, _TOKENS + town, _RUNS + town, _CURRENT + town]


def _ms(span: timedelta) -> int:
    return round(span.total_seconds() * 1000)


def _revoked(
    token_ids: Sequence[bytes], runs: Sequence[bytes], generation: bytes
) -> Revoked:
    return Revoked(
        token_ids=frozenset(texts(token_ids)),
        runs=frozenset(texts(runs)),
        generation=json.loads(generation)["generation"] if generation else 0,
    )
