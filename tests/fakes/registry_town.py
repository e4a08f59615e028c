"""Towns in memory, and what the parts of the registry's fake store share."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from services.chassis.clock import Clock, SystemClock
from services.chassis.errors import ServiceError
from services.chassis.names import AgentName, InstanceName
from services.registry import refusals
from services.registry.agents import Agent, State
from services.registry.changes import GONE_KEPT
from services.registry.event_log import LOG_BOUNDS, AgentEvent, LogBounds
from services.registry.hints import Nudges, Watchers
from services.registry.inbox import SETTLED_KEPT_S, Message, MessageState
from services.registry.leases import (
    TTL_S,
    Drain,
    Gap,
    Instance,
    Lease,
    active_drain,
    holder_of,
    judged,
)
from services.registry.reports import Told
from services.registry.specs import AgentSpec

UNLISTED = "~"


@dataclass
class Record:
    """A record, with what only the store knows of it."""

    agent: Agent
    place: str = UNLISTED
    listed: int = -1
    claimable: bool = True


@dataclass
class Town:
    """Everything that one town has."""

    records: dict[str, Record] = field(default_factory=dict)
    leases: dict[str, Lease] = field(default_factory=dict)
    epochs: dict[str, int] = field(default_factory=dict)
    instances: dict[str, Instance] = field(default_factory=dict)
    drain: Drain | None = None
    requests: dict[str, tuple[Any, Agent, datetime]] = field(default_factory=dict)
    inboxes: dict[str, dict[str, Message]] = field(default_factory=dict)
    sequences: dict[str, int] = field(default_factory=dict)
    reports: dict[str, dict[str, Told]] = field(default_factory=dict)
    events: dict[str, dict[int, tuple[AgentEvent, str]]] = field(default_factory=dict)
    nudges: dict[str, Any] = field(default_factory=dict)
    last_events: dict[str, int] = field(default_factory=dict)
    free: dict[str, datetime] = field(default_factory=dict)
    handed: dict[str, str] = field(default_factory=dict)  # agent → slot, till it asks
    unswept: set[str] = field(default_factory=set)  # slots, from sign to sign of life
    revision: int = 0
    registered: int = 0
    # For watches: the last change of each record, of those that are gone, and which
    # instances were live when somebody looked last.
    log: str = ""
    changes: dict[str, int] = field(default_factory=dict)
    gone: dict[str, int] = field(default_factory=dict)
    compacted: int = 0
    lives: dict[str, str] = field(default_factory=dict)


class MemoryTowns:
    """All towns; `failure`, when set, is raised by every call."""

    def __init__(
        self,
        clock: Clock | None = None,
        *,
        ttl_s: float = TTL_S,
        settled_kept_s: float = SETTLED_KEPT_S,
        requests_kept_s: float = 24 * 3600.0,
        gone_kept: int = GONE_KEPT,
        event_log: LogBounds = LOG_BOUNDS,
    ) -> None:
        self.clock = clock or SystemClock()
        self.nudged = Nudges()
        self.watchers = Watchers()
        self.gap: Gap | None = None
        self.failure: ServiceError | None = None
        self._ttl = timedelta(seconds=ttl_s)
        self._settled_kept = timedelta(seconds=settled_kept_s)
        self._requests_kept = timedelta(seconds=requests_kept_s)
        self._gone_kept = gone_kept
        self._event_log = event_log
        self._towns: dict[str, Town] = {}

    def _now(self) -> datetime:
        return self.clock.now()

    def _deadline(self) -> datetime:
        return self._now() + self._ttl

    def _town(self, town: str) -> Town:
        if self.failure is not None:
            raise self.failure
        return self._towns.setdefault(town, Town())

    def _record(self, name: AgentName) -> Record:
        record = self._town(name.town).records.get(name.agent)
        if record is None:
            raise refusals.agent_not_found(name)
        return record

    def _new_agent(self, name: AgentName) -> Agent:
        now = self._now()
        return Agent(name, None, State.CONFIGURED, "", now, now)

    def _note(self, town: Town, name: AgentName, *, gone: bool = False) -> None:
        """Logs that what is shown of an agent has changed, or that it went."""
        town.revision += 1
        for log in (town.changes, town.gone):
            log.pop(name.agent, None)
        (town.gone if gone else town.changes)[name.agent] = town.revision
        while len(town.gone) > self._gone_kept:
            town.compacted = town.gone.pop(next(iter(town.gone)))
        self.nudged.tell(name.town)

    def _touch(self, town: Town, record: Record) -> None:
        self._note(town, record.agent.name)
        record.agent = replace(
            record.agent, etag=str(town.revision), update_time=self._now()
        )

    def _shown(self, town: Town, record: Record) -> Agent:
        """The record with what is not stored in it."""
        agent = record.agent.name.agent
        lease = town.leases.get(agent)
        if lease is not None:
            lease = replace(lease, live=self._held(town, agent) is not None)
        waiting = self._waiting(town).get(agent, 0)
        return replace(record.agent, lease=lease, pending_messages_count=waiting)

    def _ordered(self, town: Town) -> list[tuple[str, Record]]:
        pairs = ((f"{each.place}/{name}", each) for name, each in town.records.items())
        return sorted(pairs, key=lambda pair: pair[0])

    def _waiting(self, town: Town) -> dict[str, int]:
        counts = {
            agent: sum(each.state is MessageState.PENDING for each in inbox.values())
            for agent, inbox in town.inboxes.items()
        }
        return {agent: count for agent, count in counts.items() if count}

    def _held(self, town: Town, agent: str) -> Lease | None:
        """The agent's lease, if a live instance holds it."""
        lease = town.leases.get(agent)
        held = holder_of(lease, town.instances, self._now(), self.gap)
        return lease if held else None

    def _mine(
        self, town: Town, agent: str, name: InstanceName, boot_id: str
    ) -> Lease | None:
        lease = town.leases.get(agent)
        if lease and (lease.instance, lease.boot_id) == (name.instance, boot_id):
            return lease
        return None

    def _own(self, name: InstanceName, boot_id: str) -> tuple[Town, Instance]:
        """The caller's instance; raises unless the boot has the slot."""
        town = self._town(name.town)
        instance = town.instances.get(name.instance)
        if instance is None:
            raise refusals.instance_not_found(name)
        if instance.boot_id != boot_id:
            raise refusals.slot_fenced(name, instance.boot_id)
        return town, instance

    def _offer(self, town: Town, agent: str, since: datetime) -> None:
        town.free[agent] = min(since, town.free.get(agent, since))

    def _offer_leases_of(self, town: Town, instance: Instance, since: datetime) -> bool:
        """Says whether there is any."""
        found = [
            agent
            for agent, lease in town.leases.items()
            if (lease.instance, lease.boot_id) == (instance.slot, instance.boot_id)
        ]
        for agent in found:
            self._offer(town, agent, since)
        return bool(found)

    def _renew(self, town: Town, instance: Instance) -> None:
        town.instances[instance.slot] = replace(instance, expire_time=self._deadline())
        town.unswept.add(instance.slot)

    def _drain(self, town: Town) -> Drain | None:
        return active_drain(town.drain, town.instances, self._now(), self.gap)

    def _judged(self, town: str) -> dict[str, Instance]:
        found = self._town(town)
        counted = [
            replace(
                each,
                lease_count=sum(
                    (lease.instance, lease.boot_id) == (each.slot, each.boot_id)
                    for lease in found.leases.values()
                ),
            )
            for each in found.instances.values()
        ]
        now, drain = self._now(), self._drain(found)
        return {each.slot: each for each in judged(counted, drain, now, self.gap)}


def with_spec(record: Record, spec: AgentSpec) -> Agent:
    """The record's agent with this spec; another spec drops the list's entry."""
    agent = record.agent
    if spec != agent.spec:
        agent = replace(agent, spec=spec, entry_json="")
    if not record.claimable:
        record.claimable = True
        agent = replace(agent, last_error="")
    return agent
