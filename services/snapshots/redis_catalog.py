"""The catalog in Redis: few keys a town, all in one slot, each change one script.

Keys, for town `t` and agent `a`, after `tk:snapshots:{t}:`
  state:a    hash    epoch, instance, boot, last, head, revision
  index:a    zset    every generation that exists, with its time
  records:a  hash    the records of recent generations
  ids:a      list    ids of recent uploads, newest first
  uploads    hash    upload id → agent/generation
  agents     set     agents that were ever seen
and, outside any town and any script, `tk:snapshots:towns` and `tk:snapshots:store`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from services.chassis.errors import Reason, ServiceError
from services.chassis.names import AgentName
from services.chassis.redis_pool import Durability, Script, Store, store_errors
from services.snapshots import records
from services.snapshots.generations import (
    AgentState,
    Claim,
    Snapshot,
    absent,
    check_match,
    fenced,
    head_stays,
)
from services.snapshots.store import RECORDS_KEPT, Entry, Known

# A retry comes within minutes; a thousand saves are a quarter of an hour at the
# fastest pace, and 150 KB an agent.
UPLOAD_IDS_MAX: Final = 1000
_PREFIX: Final = "tk:snapshots:"
_TOWNS: Final = f"{_PREFIX}towns"
_PAIR: Final = f"{_PREFIX}store"
_ALL: Final = "-"
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
            _keys(agent, "state:", "agents"),
            [claim.epoch or 0, claim.instance, claim.boot_id, agent.agent],
        )
        state, _ = await self.look(agent)
        if answer == b"fenced":
            raise fenced(agent, state, claim)
        return state

    async def look(
        self, agent: AgentName, upload_id: str = ""
    ) -> tuple[AgentState, Known | None]:
        keys = _keys(agent, "state:", "records:", "uploads")
        answer = await self._look.run(self._redis, keys, [upload_id])
        epoch, instance, boot_id, last, _, record, known, revision = _texts(answer)
        state = AgentState(
            epoch=int(epoch),
            instance=instance,
            boot_id=boot_id,
            last=int(last),
            head=records.from_json(record) if record else None,
            revision=int(revision),
        )
        return state, _known(known)

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
            _keys(agent, "state:", "index:", "records:", "ids:", "uploads", "agents"),
            [
                agent.agent,
                snapshot.origin.upload_id,
                snapshot.generation,
                *_claimed(claim),
                _optional(if_generation_match),
                records.to_json(snapshot),
                records.microseconds(snapshot.create_time),
                UPLOAD_IDS_MAX,
                revision,
            ],
        )
        match _texts(answer):
            case ["done"]:
                return snapshot
            case ["known", known]:
                return await self._first(agent, _known(known))
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
            found = await self._redis.hmget(_key(agent, "records:"), fields)
        return [records.from_json(text) if text else None for text in found]

    async def settle(self, agent: AgentName) -> None:
        await self._change(self._settle, _keys(agent, "state:"), [])

    async def entries(
        self, agent: AgentName, *, below: int | None = None, count: int | None = None
    ) -> Sequence[Entry]:
        highest = "+inf" if below is None else f"({below}"
        with store_errors():
            found = await self._redis.zrevrangebyscore(
                _key(agent, "index:"),
                highest,
                "-inf",
                start=None if count is None else 0,
                num=count,
            )
        return [_entry(_text(member)) for member in found]

    async def delete(
        self,
        agent: AgentName,
        generation: int | None,
        claim: Claim,
        if_generation_match: int | None,
    ) -> Sequence[int]:
        answer = await self._change(
            self._delete,
            _keys(agent, "state:", "index:", "records:", "ids:", "uploads"),
            [
                _ALL if generation is None else generation,
                _optional(claim.epoch),
                _optional(if_generation_match),
            ],
        )
        match _texts(answer):
            case ["done", *gone]:
                return [_entry(member).generation for member in gone]
            case ["absent"]:
                raise absent(agent, generation)
            case ["head", head]:
                raise head_stays(agent, int(head))
            case [refusal, *rest]:
                await self._refuse(refusal, rest, agent, claim, if_generation_match)
        return []

    async def drop(self, agent: AgentName, generations: Sequence[int]) -> None:
        if generations:
            keys = _keys(agent, "state:", "index:", "records:")
            await self._change(self._drop, keys, list(generations))

    async def adopt(self, agent: AgentName, snapshots: Sequence[Snapshot]) -> bool:
        await self._note(agent.town)
        recent = snapshots[-RECORDS_KEPT:]
        ids = snapshots[-UPLOAD_IDS_MAX:]
        answer = await self._change(
            self._adopt,
            _keys(agent, "state:", "index:", "records:", "ids:", "uploads", "agents"),
            [
                agent.agent,
                max(each.epoch for each in snapshots),
                snapshots[-1].generation,
                *_counted(_member(each) for each in snapshots),
                *_counted(
                    part
                    for each in recent
                    for part in (str(each.generation), records.to_json(each))
                ),
                *_counted(
                    part
                    for each in ids
                    for part in (each.origin.upload_id, str(each.generation))
                ),
            ],
        )
        return _text(answer) == "done"

    async def revise(
        self, agent: AgentName, old: Snapshot | None, new: Snapshot
    ) -> bool:
        keys = _keys(agent, "state:", "index:", "records:")
        before = "" if old is None else records.to_json(old)
        change = self._change(
            self._revise, keys, [new.generation, before, records.to_json(new)]
        )
        answer = _text(await change)
        if answer == "absent":
            raise absent(agent, new.generation)
        return answer == "done"

    async def trim(self, agent: AgentName, snapshots: Sequence[Snapshot]) -> None:
        texts: list[str | int] = []
        for each in snapshots:
            texts += (each.generation, records.to_json(each))
        if texts:
            await self._change(self._trim, _keys(agent, "records:"), texts)

    async def recent(self, agent: AgentName) -> Sequence[Snapshot]:
        with store_errors():
            found = await self._redis.hvals(_key(agent, "records:"))
        snapshots = map(records.from_json, found)
        return sorted(snapshots, key=lambda snapshot: snapshot.generation)

    async def towns(self) -> Sequence[str]:
        with store_errors():
            return sorted(map(_text, await self._redis.smembers(_TOWNS)))

    async def agents(self, town: str) -> Sequence[str]:
        with store_errors():
            found = await self._redis.smembers(f"{_PREFIX}{{{town}}}:agents")
        return sorted(map(_text, found))

    async def _change(
        self, script: Script, keys: Sequence[str], args: Sequence[str | int]
    ) -> Any:
        # Before, so that nothing is written that could be lost; after, because the
        # connection may have been a new one, to a server that started differently.
        await self._durability.check()
        answer = await script.run(self._redis, keys, args, replicas=self._replicas)
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


def _key(agent: AgentName, kind: str) -> str:
    """Kinds that end in a colon are of the agent, the others of its town."""
    whose = agent.agent if kind.endswith(":") else ""
    return f"{_PREFIX}{{{agent.town}}}:{kind}{whose}"


def _keys(agent: AgentName, *kinds: str) -> list[str]:
    return [_key(agent, kind) for kind in kinds]


def _optional(number: int | None) -> str:
    return "" if number is None else str(number)


def _claimed(claim: Claim) -> list[str]:
    return [_optional(claim.epoch), claim.instance, claim.boot_id]


def _texts(answer: Any) -> list[str]:
    return list(map(_text, answer))


def _text(answer: Any) -> str:
    return str(answer, "utf-8")


def _known(text: str) -> Known | None:
    agent, slash, generation = text.partition("/")
    return Known(agent, int(generation)) if slash else None


def _member(snapshot: Snapshot) -> str:
    created_us = records.microseconds(snapshot.create_time)
    return f"{snapshot.generation}:{created_us}"


def _counted(parts: Iterable[str]) -> list[str]:
    """The parts, led by their number."""
    listed = list(parts)
    return [str(len(listed)), *listed]


def _entry(member: str) -> Entry:
    generation, _, created_us = member.partition(":")
    return Entry(int(generation), int(created_us or 0))
