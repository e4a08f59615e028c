"""What scripts return, as the values of this service."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from services.chassis.names import AgentName, MessageName
from services.registry.agents import Agent, State
from services.registry.entries import read_entry, stored_spec
from services.registry.inbox import Message, MessageState
from services.registry.leases import Drain, Instance, Lease
from services.registry.redis_town import time_of
from services.registry.specs import AgentSpec

# First letter of a stored spec: one of a record's own, or the entry it came from.
OWN: Final = "S"
ENTRY: Final = "E"


def agent_from(
    town: str, raw: Sequence[Any], letter: str, text: str, *, problem: str = ""
) -> Agent:
    """A record as the prelude's `record` returns it, and its spec or entry in clear;
    with a problem instead when that cannot be had."""
    agent, meta_text, _, lease_text, live, pending = raw
    meta = json.loads(meta_text)
    entry_json = text if letter == ENTRY else ""
    spec: AgentSpec | None = None
    if not problem:
        spec = read_entry(text).spec if entry_json else stored_spec(text)
    return Agent(
        name=AgentName(town, agent.decode()),
        spec=spec if meta["claimable"] else None,
        state=State(meta["state"]),
        etag=str(meta["revision"]),
        create_time=time_of(meta["created"]),
        update_time=time_of(meta["updated"]),
        end_reason=meta["end_reason"],
        lease=lease_from(lease_text, live=bool(live)),
        generation=meta["generation"],
        failed_starts_count=meta["failed_starts"],
        last_error=problem or meta["last_error"],
        entry_json=entry_json,
        pending_messages_count=pending,
    )


def lease_from(text: bytes, *, live: bool = False) -> Lease | None:
    if not text:
        return None
    value = json.loads(text)
    return Lease(
        epoch=value["epoch"],
        instance=value["instance"],
        boot_id=value["boot"],
        live=live,
        acquire_time=time_of(value["acquired"]),
    )


def instance_from(slot: bytes, text: bytes, lease_count: int = 0) -> Instance:
    value = json.loads(text)
    return Instance(
        slot=slot.decode(),
        boot_id=value["boot"],
        address=value["address"],
        capacity=value["capacity"],
        register_time=time_of(value["registered"]),
        expire_time=time_of(value["deadline"]),
        sequence=value["sequence"],
        lease_count=lease_count,
        leaving=value.get("leaving", False),
    )


def drain_from(text: bytes) -> Drain | None:
    if not text:
        return None
    value = json.loads(text)
    return Drain(value["nonce"], time_of(value["announced"]), value["bound"])


def message_from(name: MessageName, meta: bytes, text: str) -> Message:
    value = json.loads(meta)
    message = Message(
        name=name,
        text=text,
        model=value["model"],
        state=MessageState(value["state"]),
        sequence=value["sequence"],
        accept_time=time_of(value["accepted"]),
        generation=value["generation"],
    )
    settled = value.get("settled")
    return replace(message, acknowledge_time=time_of(settled)) if settled else message


def texts(raw: Sequence[bytes]) -> list[str]:
    return [each.decode() for each in raw]
