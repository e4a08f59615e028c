"""Instances, leases and drains of towns, in memory."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import replace

from services.chassis.names import AgentName, InstanceName
from services.registry import refusals
from services.registry.agents import Agent, State
from services.registry.leases import (
    INSTANCES_MAX,
    Drain,
    Evidence,
    Instance,
    InstanceState,
    Lease,
    Pulse,
    Release,
    Resolution,
    choose,
)
from tests.fakes.registry_town import MemoryTowns


class MemoryLeases(MemoryTowns):
    """LeaseStore in memory."""

    async def register_instance(
        self, name: InstanceName, boot_id: str, address: str, capacity: int = 0
    ) -> Instance:
        town = self._town(name.town)
        known = town.instances.get(name.instance)
        if known is None or known.boot_id != boot_id:
            if known is None and len(town.instances) >= INSTANCES_MAX:
                raise refusals.too_many_instances(name.town)
            town.registered += 1
            town.drain = None
            known = Instance(
                slot=name.instance,
                boot_id=boot_id,
                address=address,
                capacity=capacity,
                register_time=self._now(),
                expire_time=self._now(),
                sequence=town.registered,
            )
        town.instances[name.instance] = replace(
            known, address=address, capacity=capacity, expire_time=self._deadline()
        )
        return self._judged(name.town)[name.instance]

    async def heartbeat(
        self, name: InstanceName, boot_id: str, runs: Sequence[Evidence] = ()
    ) -> Pulse:
        town, instance = self._own(name, boot_id)
        town.instances[name.instance] = replace(instance, expire_time=self._deadline())
        lost = [run.agent for run in runs if not self._take_in(name, boot_id, run)]
        pending = [
            agent
            for agent in sorted(self._waiting(town))
            if self._mine(town, agent, name, boot_id)
        ]
        drain = self._drain(town)
        bound = drain is not None and drain.binds(name.instance, boot_id)
        nonce = drain.nonce if drain and bound else ""
        return Pulse(tuple(lost), tuple(pending), nonce)

    def _take_in(self, name: InstanceName, boot_id: str, run: Evidence) -> bool:
        town = self._town(name.town)
        lease = self._mine(town, run.agent, name, boot_id)
        if lease is None or lease.epoch != run.epoch:
            return False
        record = town.records[run.agent]
        agent = replace(
            record.agent, generation=max(record.agent.generation, run.generation)
        )
        if record.claimable:
            agent = replace(
                agent,
                failed_starts_count=run.failed_starts_count,
                last_error=run.last_error,
            )
        if agent != record.agent:
            record.agent = agent
            self._touch(town, record)
        return True

    async def list_instances(self, town: str) -> list[Instance]:
        return list(self._judged(town).values())

    async def release_instance(self, name: InstanceName, boot_id: str) -> None:
        town = self._town(name.town)
        if name.instance in town.instances:
            self._own(name, boot_id)
            del town.instances[name.instance]

    async def resolve(self, name: AgentName) -> Resolution:
        town, found = self._town(name.town), self._judged(name.town)
        if held := self._held(town, name.agent):
            return Resolution(found[held.instance], holds_lease=True)
        chosen = choose(found.values())
        if chosen is None:
            raise refusals.no_instance(name.town)
        return Resolution(chosen, holds_lease=False)

    async def claim(
        self,
        name: InstanceName,
        boot_id: str,
        agents: Sequence[str] = (),
        limit: int = 100,
    ) -> list[tuple[Agent, bool]]:
        town, instance = self._own(name, boot_id)
        drain = self._drain(town)
        if drain and drain.binds(name.instance, boot_id):
            raise refusals.draining(name, drain.nonce)
        town.instances[name.instance] = replace(instance, expire_time=self._deadline())
        if not agents:
            return self._claim_all(name, boot_id, limit)
        for agent in agents:
            self._check_claim(AgentName(name.town, agent), name, boot_id)
        return [self._claim(name, boot_id, agent) for agent in agents]

    def _check_claim(self, agent: AgentName, name: InstanceName, boot_id: str) -> None:
        town, record = self._town(name.town), self._record(agent)
        if self._mine(town, agent.agent, name, boot_id):
            return
        if not record.claimable:
            raise refusals.no_start_request(agent, record.agent.last_error)
        if held := self._held(town, agent.agent):
            raise refusals.lease_held(agent, held.instance, held.epoch)

    def _claim_all(
        self, name: InstanceName, boot_id: str, limit: int
    ) -> list[tuple[Agent, bool]]:
        town = self._town(name.town)
        instance = self._judged(name.town)[name.instance]
        if instance.capacity:
            limit = min(limit, instance.capacity - instance.lease_count)
        claims = []
        for _, record in self._ordered(town):
            agent = record.agent.name.agent
            free = (
                record.agent.state is State.ACTIVE
                and record.claimable
                and record.listed < instance.sequence
                and not self._held(town, agent)
            )
            mine = self._mine(town, agent, name, boot_id)
            if mine or (free and limit > 0):
                limit -= 0 if mine else 1
                claims.append(self._claim(name, boot_id, agent))
        return claims

    def _claim(
        self, name: InstanceName, boot_id: str, agent: str
    ) -> tuple[Agent, bool]:
        town = self._town(name.town)
        record, old = town.records[agent], town.leases.get(agent)
        if self._mine(town, agent, name, boot_id):
            return self._shown(town, record), False
        epoch = town.epochs[agent] = town.epochs.get(agent, 0) + 1
        town.leases[agent] = Lease(
            epoch, name.instance, boot_id, acquire_time=self._now()
        )
        record.listed = -1
        record.agent = replace(record.agent, state=State.ACTIVE, end_reason="")
        self._touch(town, record)
        return self._shown(town, record), bool(old and old.instance)

    async def release(
        self, name: InstanceName, boot_id: str, releases: Sequence[Release]
    ) -> list[str]:
        town = self._town(name.town)
        skipped = []
        for each in releases:
            lease = self._mine(town, each.agent, name, boot_id)
            if lease is None or lease.epoch != each.epoch:
                skipped.append(each.agent)
                continue
            town.leases[each.agent] = replace(lease, instance="", boot_id="")
            record = town.records[each.agent]
            if each.end_reason:
                record.agent = replace(
                    record.agent, state=State.ENDED, end_reason=each.end_reason
                )
            self._touch(town, record)
        return skipped

    async def announce_drain(self, town: str, slots: Sequence[str] = ()) -> Drain:
        found = self._town(town)
        live = {
            slot: instance.boot_id
            for slot, instance in self._judged(town).items()
            if instance.state is not InstanceState.EXPIRED
        }
        for slot in slots:
            if slot not in live:
                raise refusals.instance_not_found(InstanceName(town, slot))
        bound = {
            slot: boot for slot, boot in live.items() if not slots or slot in slots
        }
        new = Drain(str(uuid.uuid4()), self._now(), bound)
        if not bound:
            return new
        drain = self._drain(found)
        if drain and all(drain.binds(*each) for each in bound.items()):
            return drain
        found.drain = replace(new, bound={**(drain.bound if drain else {}), **bound})
        return found.drain

    async def get_drain(self, town: str) -> Drain | None:
        return self._drain(self._town(town))

    async def confirm_ready(self, town: str, nonce: str) -> bool:
        drain = self._drain(self._town(town))
        if drain and drain.nonce != nonce:
            return False
        self._town(town).drain = None
        return True
