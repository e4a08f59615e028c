"""Instances, leases and drains of towns, in memory."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import replace

from services.chassis.names import AgentName, InstanceName
from services.registry import refusals
from services.registry.agents import Agent, State
from services.registry.hints import Handed, Offered
from services.registry.leases import (
    EXPIRED_SHOWN,
    INSTANCES_MAX,
    Drain,
    Evidence,
    Instance,
    InstanceState,
    Lease,
    Pulse,
    Release,
    Resolution,
    alive,
    choose,
)
from tests.fakes.registry_town import MemoryTowns, Record, Town


class MemoryLeases(MemoryTowns):
    """LeaseStore in memory."""

    async def register_instance(
        self, name: InstanceName, boot_id: str, address: str, capacity: int = 0
    ) -> Instance:
        town = self._town(name.town)
        known = town.instances.get(name.instance)
        if known is None or known.boot_id != boot_id:
            self._forget(town)
            if known is None and len(town.instances) >= INSTANCES_MAX:
                raise refusals.too_many_instances(name.town)
            if known is not None:
                self._offer_leases_of(town, known, self._deadline())
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
        self._renew(town, replace(known, address=address, capacity=capacity))
        return self._judged(name.town)[name.instance]

    async def heartbeat(
        self,
        name: InstanceName,
        boot_id: str,
        runs: Sequence[Evidence] = (),
        *,
        leaving: bool = False,
    ) -> Pulse:
        town, instance = self._own(name, boot_id)
        leaving = instance.leaving or leaving
        self._renew(town, replace(instance, leaving=leaving))
        self._sweep(name.town)
        lost = [run.agent for run in runs if not self._take_in(name, boot_id, run)]
        pending = [
            agent
            for agent in sorted(self._waiting(town))
            if self._mine(town, agent, name, boot_id)
        ]
        drain = self._drain(town)
        bound = drain is not None and drain.binds(name.instance, boot_id)
        nonce = drain.nonce if drain and bound else ""
        free = sum(since <= self._now() for since in town.free.values())
        full = not replace(instance, lease_count=len(runs)).has_room
        if nonce or leaving or full:
            free = 0
        for agent, slot in list(town.handed.items()):
            lease = self._mine(town, agent, name, boot_id)
            if slot != name.instance or lease is None:
                continue
            if any(run.agent == agent and agent not in lost for run in runs):
                del town.handed[agent]
            elif nonce or leaving:
                self._give_up(town, town.records[agent], lease)
            else:
                free += 1
        living = sum(
            alive(one.expire_time, self._now(), self.gap)
            for one in town.instances.values()
        )
        return Pulse(tuple(lost), tuple(pending), nonce, free, living)

    def _sweep(self, name: str) -> None:
        """Offers what those lease who were not heard from in time."""
        town = self._town(name)
        for slot in list(town.unswept):
            other = town.instances.get(slot)
            if other is None:
                town.unswept.remove(slot)
            elif not alive(other.expire_time, self._now(), self.gap):
                town.unswept.remove(slot)
                self._orphan_leases_of(name, other)

    def _orphan_leases_of(self, town: str, gone: Instance) -> None:
        if self._offer_leases_of(self._town(town), gone, self._now()):
            self.watchers.tell(town, Offered())

    def _forget(self, town: Town) -> None:
        """Instances that expired long ago; what they lease is on offer."""
        for slot, other in list(town.instances.items()):
            if alive(other.expire_time, self._now(), self.gap):
                continue
            if other.expire_time + EXPIRED_SHOWN < self._now():
                del town.instances[slot]
                if slot in town.unswept:
                    town.unswept.remove(slot)
                    self._offer_leases_of(town, other, self._now())

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
            _, instance = self._own(name, boot_id)
            del town.instances[name.instance]
            self._orphan_leases_of(name.town, instance)

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
        *,
        renew: bool = False,
    ) -> list[tuple[Agent, bool]]:
        town, instance = self._own(name, boot_id)
        drain = self._drain(town)
        if drain and not drain.binds(name.instance, boot_id):
            drain = None
        if drain and not renew:
            raise refusals.draining(name, drain.nonce)
        self._renew(town, instance)
        if not agents:
            return self._claim_all(name, boot_id, limit)
        for agent in agents:
            self._check_claim(AgentName(name.town, agent), name, boot_id, drain)
        return [self._claim(name, boot_id, agent, renew=renew) for agent in agents]

    def _check_claim(
        self, agent: AgentName, name: InstanceName, boot_id: str, drain: Drain | None
    ) -> None:
        town, record = self._town(name.town), self._record(agent)
        if self._mine(town, agent.agent, name, boot_id):
            return
        if drain:
            raise refusals.draining(name, drain.nonce)
        if not record.claimable:
            raise refusals.no_start_request(agent, record.agent.last_error)
        if held := self._held(town, agent.agent):
            raise refusals.lease_held(agent, held.instance, held.epoch)

    def _claim_all(
        self, name: InstanceName, boot_id: str, limit: int
    ) -> list[tuple[Agent, bool]]:
        town = self._town(name.town)
        mates = {
            slot: one
            for slot, one in self._judged(name.town).items()
            if one.state is InstanceState.READY
        }
        claims = []
        for _, record in self._ordered(town):
            agent = record.agent.name.agent
            wanted = record.agent.state is State.ACTIVE and record.claimable
            if self._mine(town, agent, name, boot_id):
                town.free.pop(agent, None)
                town.handed.pop(agent, None)
            elif self._held(town, agent) or not wanted:
                town.free.pop(agent, None)
                continue
            elif record.listed >= town.instances[name.instance].sequence:
                continue
            elif self._share(town, record, name.instance, mates, limit):
                limit -= 1
            else:
                continue
            claims.append(self._claim(name, boot_id, agent))
        return claims

    def _share(
        self,
        town: Town,
        record: Record,
        slot: str,
        mates: dict[str, Instance],
        limit: int,
    ) -> bool:
        """Whether the slot takes this agent, rather than leave it to the others."""
        agent = record.agent.name.agent
        lease, since = town.leases.get(agent), town.free.get(agent, self._now())
        own = lease is not None and lease.instance == slot
        if since > self._now() and not own:
            return False
        found: Instance | None = None
        if own or since + self._ttl <= self._now():
            found = mates.get(slot)
        if found is None:
            found = choose(
                one
                for one in mates.values()
                if record.listed < one.sequence and one.has_room
            )
        takes = found is not None and (
            found.slot != slot or (found.has_room and limit > 0)
        )
        if found is not None and takes:
            count = found.lease_count + 1
            mates[found.slot] = replace(found, lease_count=count)
            if found.slot == slot:
                return True
        self._offer(town, agent, self._now())
        return False

    def _claim(
        self, name: InstanceName, boot_id: str, agent: str, *, renew: bool = False
    ) -> tuple[Agent, bool]:
        town = self._town(name.town)
        record, old = town.records[agent], town.leases.get(agent)
        mine = self._mine(town, agent, name, boot_id)
        if mine and not renew:
            return self._shown(town, record), False
        self._lease_to(town, record, name.instance, boot_id)
        return self._shown(town, record), bool(old and old.instance and not mine)

    def _lease_to(self, town: Town, record: Record, slot: str, boot_id: str) -> None:
        agent = record.agent.name.agent
        epoch = town.epochs[agent] = town.epochs.get(agent, 0) + 1
        town.leases[agent] = Lease(epoch, slot, boot_id, acquire_time=self._now())
        record.listed = -1
        town.free.pop(agent, None)
        town.handed.pop(agent, None)
        record.agent = replace(record.agent, state=State.ACTIVE, end_reason="")
        self._touch(town, record)

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
            record = town.records[each.agent]
            again = not each.end_reason and not each.wait_for_boot
            if again and (heir := self._heir(name, boot_id, record)):
                self._lease_to(town, record, heir.slot, heir.boot_id)
                town.handed[each.agent] = heir.slot
                self.watchers.tell(name.town, Handed(heir.slot))
                continue
            if again:
                self._give_up(town, record, lease)
                continue
            town.leases[each.agent] = replace(lease, instance="", boot_id="")
            town.free.pop(each.agent, None)
            if each.wait_for_boot and not each.end_reason:
                record.listed = town.registered
            if each.end_reason:
                record.agent = replace(
                    record.agent, state=State.ENDED, end_reason=each.end_reason
                )
            self._touch(town, record)
        return skipped

    def _give_up(self, town: Town, record: Record, lease: Lease) -> None:
        agent = record.agent.name.agent
        town.leases[agent] = replace(lease, instance="", boot_id="")
        town.handed.pop(agent, None)
        self._offer(town, agent, self._now())
        self._touch(town, record)

    def _heir(
        self, name: InstanceName, boot_id: str, record: Record
    ) -> Instance | None:
        """Who goes on with an agent of one that is about to go."""
        found = self._judged(name.town)
        own = found.get(name.instance)
        goes = own and own.boot_id == boot_id and own.state is InstanceState.DRAINING
        wanted = record.agent.state is State.ACTIVE and record.claimable
        if not goes or not wanted:
            return None
        return choose(
            one
            for one in found.values()
            if record.listed < one.sequence and one.has_room
        )

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
