"""Instances, leases and drains of towns, in Redis."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from services.chassis.names import AgentName, InstanceName
from services.registry import refusals
from services.registry.agents import Agent
from services.registry.leases import (
    EXPIRED_SHOWN,
    INSTANCES_MAX,
    LEASES_MAX,
    WEIGHT_UNLIMITED,
    Drain,
    Evidence,
    Gap,
    Instance,
    Lease,
    Pulse,
    Release,
    Resolution,
    active_drain,
    choose,
    holder_of,
    judged,
)
from services.registry.redis_specs import StoredSpecs
from services.registry.redis_town import RedisTown
from services.registry.redis_values import (
    drain_from,
    instance_from,
    lease_from,
    texts,
)
from services.registry.store import ANSWER_BYTES_MAX


@dataclass(frozen=True, slots=True)
class _Town:
    """What the rules of leases.py judge by."""

    now: datetime
    gap: Gap | None
    instances: dict[str, Instance]
    drain: Drain | None
    lease: Lease | None

    def judged(self) -> list[Instance]:
        return judged(self.instances.values(), self.drain, self.now, self.gap)


class RedisLeases:
    """LeaseStore over Redis."""

    def __init__(self, town: RedisTown, specs: StoredSpecs) -> None:
        self._redis = town
        self._specs = specs

    async def register_instance(
        self, name: InstanceName, boot_id: str, address: str, capacity: int = 0
    ) -> Instance:
        answer = await self._redis.change(
            "register_instance",
            name.town,
            slot=name.instance,
            boot=boot_id,
            address=address,
            capacity=capacity,
            instances_max=INSTANCES_MAX,
            expired_shown=round(EXPIRED_SHOWN.total_seconds() * 1000),
        )
        registered = instance_from(*answer.values)
        for instance in await self.list_instances(name.town):
            if (instance.slot, instance.boot_id) == (name.instance, boot_id):
                return instance
        return registered

    async def heartbeat(
        self,
        name: InstanceName,
        boot_id: str,
        runs: Sequence[Evidence] = (),
        *,
        leaving: bool = False,
    ) -> Pulse:
        answer = await self._redis.ask(
            "heartbeat",
            name.town,
            slot=name.instance,
            boot=boot_id,
            leaving=leaving,
            runs=[
                {
                    "agent": run.agent,
                    "epoch": run.epoch,
                    "generation": run.generation,
                    "failed_starts": run.failed_starts_count,
                    "last_error": run.last_error,
                }
                for run in runs
            ],
        )
        lost, pending, nonce, free, living = answer.values
        return Pulse(
            lost=tuple(texts(lost)),
            pending=tuple(texts(pending)),
            drain_nonce=nonce.decode(),
            claimable=free,
            living=living,
        )

    async def list_instances(self, town: str) -> list[Instance]:
        return (await self._read(town)).judged()

    async def release_instance(self, name: InstanceName, boot_id: str) -> None:
        await self._redis.change(
            "release_instance", name.town, slot=name.instance, boot=boot_id
        )

    async def resolve(self, name: AgentName) -> Resolution:
        town = await self._read(name.town, name.agent)
        holder = holder_of(town.lease, town.instances, town.now, town.gap)
        for instance in town.judged():
            if holder is not None and instance.slot == holder.slot:
                return Resolution(instance, holds_lease=True)
        chosen = choose(town.judged())
        if chosen is None:
            raise refusals.no_instance(name.town)
        return Resolution(chosen, holds_lease=False)

    async def claim(
        self,
        name: InstanceName,
        boot_id: str,
        agents: Sequence[str] = (),
        limit: int = 100,
        *,
        renew: bool = False,
    ) -> list[tuple[Agent, bool]]:
        answer = await self._redis.change(
            "claim_agents",
            name.town,
            slot=name.instance,
            boot=boot_id,
            agents=list(agents),
            limit=limit,
            renew=renew,
            bytes_max=ANSWER_BYTES_MAX,
            weight_unlimited=WEIGHT_UNLIMITED,
            leases_max=LEASES_MAX,
        )
        if agents:
            return [
                (self._specs.agent(name.town, raw), bool(taken))
                for raw, taken, _ in answer.values[0]
            ]
        claims: list[tuple[Agent, bool]] = []
        closed: list[Release] = []
        for raw, taken, is_new in answer.values[0]:
            agent = self._specs.listed(name.town, raw)
            if agent.spec is not None:
                claims.append((agent, bool(taken)))
            elif agent.lease and is_new:
                # What it was told of before may run there yet, and stays.
                epoch = agent.lease.epoch
                closed.append(Release(agent.name.agent, epoch, wait_for_boot=True))
        if closed:
            # One broken record keeps no container from the others. No sooner than the
            # next boot is it tried again: offered at once, it would go round and round.
            await self.release(name, boot_id, closed)
        return claims

    async def release(
        self, name: InstanceName, boot_id: str, releases: Sequence[Release]
    ) -> list[str]:
        answer = await self._redis.change(
            "release_agents",
            name.town,
            slot=name.instance,
            boot=boot_id,
            releases=[
                {
                    "agent": r.agent,
                    "epoch": r.epoch,
                    "end_reason": r.end_reason,
                    "wait_for_boot": r.wait_for_boot,
                }
                for r in releases
            ],
            weight_unlimited=WEIGHT_UNLIMITED,
            leases_max=LEASES_MAX,
        )
        return texts(answer.values[0])

    async def announce_drain(self, town: str, slots: Sequence[str] = ()) -> Drain:
        nonce = str(uuid.uuid4())
        answer = await self._redis.change(
            "announce_drain", town, slots=list(slots), nonce=nonce
        )
        return drain_from(answer.values[0]) or Drain(nonce, answer.now, {})

    async def get_drain(self, town: str) -> Drain | None:
        found = await self._read(town)
        return active_drain(found.drain, found.instances, found.now, found.gap)

    async def confirm_ready(self, town: str, nonce: str) -> bool:
        answer = await self._redis.change("confirm_ready", town, nonce=nonce)
        return bool(answer.values[0])

    async def _read(self, town: str, agent: str = "") -> _Town:
        answer = await self._redis.ask("read_town", town, agent=agent)
        found, drain, lease = answer.values
        instances = [instance_from(*raw) for raw in found]
        return _Town(
            answer.now,
            self._redis.gap,
            {instance.slot: instance for instance in instances},
            drain_from(drain),
            lease_from(lease),
        )
