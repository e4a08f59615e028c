"""The catalog in Redis: few keys a town, all in one slot, each change one script.

Keys, for town `t` and agent `a`, after `tk:snapshots:{t}:`
  state:a    hash    epoch, instance, boot, last, head, revision, changes
  index:a    zset    every generation that exists, with its time
  deleted:a  zset    those that are deleted instead, with the time when they are purged
  records:a  hash    the records of recent generations
  ids:a      list    ids of recent uploads, newest first
  marks:a    hash    generations whose record was changed: its revision, and if held
  uploads    hash    upload id → agent/generation
  agents     set     agents that were ever seen
and, outside any town and any script, `tk:snapshots:towns` and `tk:snapshots:store`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from services.chassis.errors import Reason, ServiceError
from services.chassis.names import AgentName
from services.chassis.redis_pool import Durability, Script, Store, store_errors
from services.snapshots import records, redis_values
from services.snapshots.generations import (
    AgentState,
    Claim,
    Snapshot,
    absent,
    check_match,
    fenced,
    head_stays,
    held,
)
from services.snapshots.redis_values import PREFIX, UPLOAD_IDS_MAX, keys, text, texts
from services.snapshots.store import Entry, Known

_TOWNS: Final = f"{PREFIX}towns"
_PAIR: Final = f"{PREFIX}store"
_ALL: Final = "-"
_ANYBODY: Final = "*"
# All that is known of an agent, as scripts that replace it want it.
_OF_ALL: Final = (
    "state:",
    "index:",
    "records:",
    "ids:",
    "uploads",
    "marks:",
    "deleted:",
)
_LUA: Final = "services.snapshots.lua"


class RedisCatalog:
    """A Catalog. Records older than the recent ones it leaves to the blob store."""

    def __init__(
        self, redis: Store, durability: Durability, *, replicas: int = 0
    ) -> None:
        self._redis = redis
        self._durability = durability
        self._replicas = replicas
        self._towns_noted: set[str] = set()
        self._look = Script.read(_LUA, "look.lua")
        self._advance = Script.read(_LUA, "advance.lua")
        self._commit = Script.read(_LUA, "commit.lua")
        self._delete = Script.read(_LUA, "delete.lua")
        self._drop = Script.read(_LUA, "drop.lua")
        self._fence = Script.read(_LUA, "fence.lua")
        self._forget = Script.read(_LUA, "forget.lua")
        self._forgotten = Script.read(_LUA, "forgotten.lua")
        self._entries = Script.read(_LUA, "entries.lua")
        self._purge = Script.read(_LUA, "purge.lua")
        self._adopt = Script.read(_LUA, "adopt.lua")
        self._settle = Script.read(_LUA, "settle.lua")
        self._revise = Script.read(_LUA, "revise.lua")
        self._trim = Script.read(_LUA, "trim.lua")

    async def check(self) -> None:
        """Returns if Redis answers and keeps what it acknowledges."""
        with store_errors():
            await self._redis.ping()
        await self._durability.check()

    async def pair(self, store_id: str) -> None:
        """Ties this Redis and one blob store together: with the records of another
        store, a sweep would take those of this one for deleted ones."""
        with store_errors():
            await self._redis.set(_PAIR, store_id, nx=True)
            found = await self._redis.get(_PAIR)
        if found != store_id.encode():
            raise ServiceError(
                Reason.STORE_FOREIGN,
                "cannot use this Redis with this blob store, it has the records of "
                "another one: set TOWNKEEPER_REDIS_URL or TOWNKEEPER_BLOB_URL right",
                store=store_id,
            )

    async def advance(self, agent: AgentName, claim: Claim) -> AgentState:
        await self._note(agent.town)
        answer = await self._change(
            self._advance,
            keys(agent, "state:", "agents"),
            [claim.epoch or 0, claim.instance, claim.boot_id, agent.agent],
        )
        state, _ = await self.look(agent)
        if answer == b"fenced":
            raise fenced(agent, state, claim)
        return state

    async def look(
        self, agent: AgentName, upload_id: str = ""
    ) -> tuple[AgentState, Known | None]:
        needed = keys(agent, "state:", "records:", "uploads")
        answer = await self._look.run(self._redis, needed, [upload_id])
        return redis_values.state(answer)

    async def commit(
        self,
        snapshot: Snapshot,
        claim: Claim,
        if_generation_match: int | None,
        revision: int = 0,
    ) -> Snapshot | None:
        agent = snapshot.agent
        await self._note(agent.town)
        answer = await self._change(
            self._commit,
            keys(agent, "state:", "index:", "records:", "ids:", "uploads", "agents"),
            [
                agent.agent,
                snapshot.origin.upload_id,
                snapshot.generation,
                *redis_values.claimed(claim),
                redis_values.optional(if_generation_match),
                records.to_json(snapshot),
                records.microseconds(snapshot.create_time),
                UPLOAD_IDS_MAX,
                revision,
            ],
        )
        match texts(answer):
            case ["done"]:
                return snapshot
            case ["known", known]:
                return await self._first(agent, redis_values.known(known))
            case [refusal, *rest]:
                await self._refuse(refusal, rest, agent, claim, if_generation_match)
        return None

    async def records(
        self, agent: AgentName, generations: Sequence[int]
    ) -> list[Snapshot | None]:
        if not generations:
            return []
        fields = [str(generation) for generation in generations]
        with store_errors():
            found = await self._redis.hmget(redis_values.key(agent, "records:"), fields)
        return [records.from_json(one) if one else None for one in found]

    async def settle(self, agent: AgentName) -> None:
        await self._change(self._settle, keys(agent, "state:"), [])

    async def entries(
        self,
        agent: AgentName,
        *,
        below: int | None = None,
        count: int | None = None,
        deleted: bool = False,
    ) -> Sequence[Entry]:
        found = await self._entries.run(
            self._redis,
            keys(agent, "index:", *(["deleted:"] if deleted else [])),
            ["+inf" if below is None else f"({below}", -1 if count is None else count],
        )
        entries = [redis_values.entry(text(member)) for one in found for member in one]
        entries.sort(key=lambda entry: entry.generation, reverse=True)
        return entries[:count]

    async def delete(
        self,
        agent: AgentName,
        generation: int | None,
        claim: Claim,
        if_generation_match: int | None,
    ) -> Sequence[int]:
        answer = await self._change(
            self._delete,
            keys(agent, *_OF_ALL),
            [
                _ALL if generation is None else generation,
                redis_values.optional(claim.epoch),
                redis_values.optional(if_generation_match),
            ],
        )
        match texts(answer):
            case ["done", *gone]:
                return [redis_values.entry(member).generation for member in gone]
            case ["absent"]:
                raise absent(agent, generation)
            case ["head", head]:
                raise head_stays(agent, int(head))
            case ["held", number]:
                raise held(agent, int(number))
            case [refusal, *rest]:
                await self._refuse(refusal, rest, agent, claim, if_generation_match)
        return []

    async def drop(self, agent: AgentName, generations: Sequence[int]) -> Sequence[int]:
        if not generations:
            return []
        needed = keys(agent, "state:", "index:", "records:", "marks:", "deleted:")
        answer = await self._change(self._drop, needed, list(generations))
        return list(map(int, texts(answer)))

    async def purge(self, agent: AgentName, now_us: int) -> Sequence[int]:
        needed = keys(agent, "state:", "records:", "marks:", "deleted:")
        answer = await self._change(self._purge, needed, [now_us])
        return list(map(int, texts(answer)))

    async def forget(self, agent: AgentName, generations: Sequence[int]) -> None:
        if generations:
            needed = keys(agent, "state:", "index:", "records:", "marks:", "deleted:")
            await self._change(self._forget, needed, list(generations))

    async def forgotten(
        self, agent: AgentName, generations: Sequence[int]
    ) -> Sequence[int]:
        needed = keys(agent, "state:", "index:", "deleted:")
        answer = await self._forgotten.run(self._redis, needed, list(generations))
        return list(map(int, texts(answer)))

    async def fence(self, agent: AgentName) -> None:
        await self._change(self._fence, keys(agent, "state:"), [])

    async def adopt(
        self,
        agent: AgentName,
        snapshots: Sequence[Snapshot],
        changes: int | None = None,
        owed: Sequence[Snapshot] = (),
    ) -> bool:
        await self._note(agent.town)
        answer = await self._change(
            self._adopt,
            keys(agent, *_OF_ALL, "agents"),
            redis_values.adoption(agent, snapshots, changes, owed),
        )
        return text(answer) == "done"

    async def revise(
        self,
        agent: AgentName,
        old: Snapshot | None,
        new: Snapshot,
        claim: Claim | None = None,
        if_generation_match: int | None = None,
    ) -> bool:
        answer = await self._change(
            self._revise,
            keys(agent, "state:", "index:", "records:", "marks:", "deleted:"),
            [
                new.generation,
                "" if old is None else records.to_json(old),
                records.to_json(new),
                new.revision,
                redis_values.mark(new),
                redis_values.member(new),
                redis_values.deletion(new),
                _ANYBODY if claim is None else redis_values.optional(claim.epoch),
                redis_values.optional(if_generation_match),
            ],
        )
        match texts(answer):
            case ["absent"]:
                raise absent(agent, new.generation)
            case ["head", head]:
                raise head_stays(agent, int(head))
            case [("fenced" | "mismatch") as refusal, *rest]:
                asked = claim or Claim()
                await self._refuse(refusal, rest, agent, asked, if_generation_match)
        return texts(answer) == ["done"]

    async def trim(self, agent: AgentName, snapshots: Sequence[Snapshot]) -> None:
        args: list[str | int] = []
        for each in snapshots:
            args += (each.generation, records.to_json(each))
        if args:
            await self._change(self._trim, keys(agent, "records:"), args)

    async def recent(self, agent: AgentName) -> Sequence[Snapshot]:
        with store_errors():
            found = await self._redis.hvals(redis_values.key(agent, "records:"))
        snapshots = map(records.from_json, found)
        return sorted(snapshots, key=lambda snapshot: snapshot.generation)

    async def towns(self) -> Sequence[str]:
        with store_errors():
            return sorted(map(text, await self._redis.smembers(_TOWNS)))

    async def agents(self, town: str) -> Sequence[str]:
        with store_errors():
            found = await self._redis.smembers(f"{PREFIX}{{{town}}}:agents")
        return sorted(map(text, found))

    async def _change(
        self, script: Script, needed: Sequence[str], args: Sequence[str | int]
    ) -> Any:
        # Before, so that nothing is written that could be lost; after, because the
        # connection may have been a new one, to a server that started differently.
        await self._durability.check()
        answer = await script.run(self._redis, needed, args, replicas=self._replicas)
        await self._durability.check()
        return answer

    async def _note(self, town: str) -> None:
        """The index of towns comes first: a town that is not in it is never swept."""
        if town not in self._towns_noted:
            with store_errors():
                await self._redis.sadd(_TOWNS, town)
            self._towns_noted.add(town)

    async def _first(self, agent: AgentName, known: Known | None) -> Snapshot | None:
        assert known is not None
        if known.agent != agent.agent:
            return None
        [found] = await self.records(agent, [known.generation])
        return found

    async def _refuse(
        self,
        refusal: str,
        rest: Sequence[str],
        agent: AgentName,
        claim: Claim,
        if_generation_match: int | None,
    ) -> None:
        if refusal == "fenced":
            state, _ = await self.look(agent)
            raise fenced(agent, state, claim)
        if refusal == "mismatch":
            check_match(agent, int(rest[0]), if_generation_match)
