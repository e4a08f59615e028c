"""Who runs an agent: instances, leases with epochs, drains. Pure rules.

All times are the store's. The scripts in `lua/` say the same things where they must
hold in one step with a write; the conformance suite holds both to one meaning.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

TTL_S: Final = 10.0
HEARTBEAT_INTERVAL_S: Final = 2.0
# How long an expired instance is still shown.
EXPIRED_SHOWN: Final = timedelta(hours=1)
INSTANCES_MAX: Final = 1000
# What one heartbeat can tell of, so what one instance can hold.
LEASES_MAX: Final = 1000
# What an instance without a limit counts as beside one with a capacity.
WEIGHT_UNLIMITED: Final = 100


class InstanceState(StrEnum):
    """What an instance does."""

    READY = "ready"
    DRAINING = "draining"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class Gap:
    """A time in which the registry itself did not serve.

    Nobody could renew a lease between `start` and `end`, so whoever was alive at
    `start` stays so until `until`, one TTL after the end.
    """

    start: datetime
    until: datetime


@dataclass(frozen=True, slots=True)
class Lease:
    """Who has an agent; `instance` is a slot, empty when the lease was given back."""

    epoch: int
    instance: str = ""
    boot_id: str = ""
    live: bool = False
    acquire_time: datetime | None = None


@dataclass(frozen=True, slots=True)
class Instance:
    """One supervisor process; `sequence` is its place among all registrations."""

    slot: str
    boot_id: str
    address: str
    capacity: int
    register_time: datetime
    expire_time: datetime
    sequence: int = 0
    state: InstanceState = InstanceState.READY
    lease_count: int = 0
    leaving: bool = False

    @property
    def has_room(self) -> bool:
        """Whether one more agent is within its capacity."""
        return self.lease_count < min(self.capacity or LEASES_MAX, LEASES_MAX)

    @property
    def fill(self) -> float:
        """How full one more agent would make it."""
        return (self.lease_count + 1) / (self.capacity or WEIGHT_UNLIMITED)


@dataclass(frozen=True, slots=True)
class Drain:
    """A drain that is on: its nonce, and the boots it binds, by slot."""

    nonce: str
    announce_time: datetime
    bound: Mapping[str, str]

    def binds(self, slot: str, boot_id: str) -> bool:
        return self.bound.get(slot) == boot_id


@dataclass(frozen=True, slots=True)
class Resolution:
    """The instance to call about an agent, and whether it holds the agent's lease."""

    instance: Instance
    holds_lease: bool


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a heartbeat says of one run, as far as the record keeps it."""

    agent: str
    epoch: int
    generation: int = 0
    failed_starts_count: int = 0
    last_error: str = ""


@dataclass(frozen=True, slots=True)
class Pulse:
    """What a heartbeat learns: leases lost, inboxes that wait, a drain's nonce, how
    many agents are on offer or were handed to it, and how many instances are alive."""

    lost: tuple[str, ...] = ()
    pending: tuple[str, ...] = ()
    drain_nonce: str = ""
    claimable: int = 0
    living: int = 1


@dataclass(frozen=True, slots=True)
class Release:
    """One lease given back; without a reason the agent must run elsewhere: at once, or
    when an instance boots."""

    agent: str
    epoch: int
    end_reason: str = ""
    wait_for_boot: bool = False


# Words with which a lease is given back; "" means the agent must go on elsewhere.
END_REASONS: Final = frozenset({"", "completed", "stopped", "failed"})


def alive(expire_time: datetime, now: datetime, gap: Gap | None) -> bool:
    """Whether an instance that was heard from in time still counts as there."""
    if expire_time > now:
        return True
    return gap is not None and gap.start < expire_time and now < gap.until


def holder_of(
    lease: Lease | None,
    instances: Mapping[str, Instance],
    now: datetime,
    gap: Gap | None,
) -> Instance | None:
    """The live instance that holds the lease, if there is one."""
    instance = instances.get(lease.instance) if lease else None
    if lease is None or instance is None or instance.boot_id != lease.boot_id:
        return None
    return instance if alive(instance.expire_time, now, gap) else None


def active_drain(
    drain: Drain | None,
    instances: Mapping[str, Instance],
    now: datetime,
    gap: Gap | None,
) -> Drain | None:
    """The drain, unless everything it binds is gone."""
    if drain is None:
        return None
    for slot, boot_id in drain.bound.items():
        instance = instances.get(slot)
        there = instance is not None and instance.boot_id == boot_id
        if instance and there and alive(instance.expire_time, now, gap):
            return drain
    return None


def judged(
    instances: Iterable[Instance],
    drain: Drain | None,
    now: datetime,
    gap: Gap | None,
) -> list[Instance]:
    """The instances by name with their states; long gone ones are left out."""
    found = []
    for instance in sorted(instances, key=lambda one: one.slot):
        if alive(instance.expire_time, now, gap):
            bound = instance.leaving or (
                drain is not None and drain.binds(instance.slot, instance.boot_id)
            )
            state = InstanceState.DRAINING if bound else InstanceState.READY
        elif now - instance.expire_time <= EXPIRED_SHOWN:
            state = InstanceState.EXPIRED
        else:
            continue
        found.append(replace(instance, state=state))
    return found


def choose(judged_instances: Iterable[Instance]) -> Instance | None:
    """The ready instance that one more agent fills least, a full one only if all are;
    of equals the first by name."""
    ready = [one for one in judged_instances if one.state is InstanceState.READY]
    return min(
        ready, key=lambda one: (not one.has_room, one.fill, one.slot), default=None
    )
