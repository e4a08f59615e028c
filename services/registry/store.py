"""The port: what this service asks of its store, and what the store promises.

Every method is one atomic step. What changes agents, leases, drains or inboxes is
durable when the method returns. UNAVAILABLE may mean that it happened all the same:
every call is safe to repeat. Methods raise the refusals of `refusals.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from datetime import timedelta
from typing import Protocol

from services.chassis.names import AgentName, InstanceName, MessageName, NudgeName
from services.registry.agents import Agent, AgentPage, State
from services.registry.changes import Changes, Position
from services.registry.entries import Entry
from services.registry.event_log import AgentEvent, EventPage
from services.registry.hints import Hint
from services.registry.inbox import (
    Acknowledgement,
    Message,
    MessagePage,
    MessageState,
)
from services.registry.leases import (
    Drain,
    Evidence,
    Instance,
    Pulse,
    Release,
    Resolution,
)
from services.registry.nudges import Nudge, NudgeContent
from services.registry.reports import Report, Told
from services.registry.revocations import News, Revocation
from services.registry.specs import AgentSpec, Role

# An answer stays below this, so that it fits gRPC's 4 MiB with what is around it.
ANSWER_BYTES_MAX = 3 * 1024 * 1024
# Nor does a page of records take more than this, unless one alone does.
RECORDS_BYTES_MAX = 1024 * 1024


class AgentStore(Protocol):
    """The records of towns."""

    async def register_agent(
        self,
        name: AgentName,
        spec: AgentSpec,
        *,
        configure_only: bool = False,
        etag: str = "",
        request_id: str = "",
    ) -> Agent:
        """Creates the record or replaces its spec; lease and epoch stay.

        A list entry is kept while it means the same spec, and dropped with any other.
        A repeat under the same `request_id` answers as the first did. Raises
        ETAG_MISMATCH, TOO_MANY_AGENTS; FIELD_INVALID when the id was used otherwise.
        """

    async def get_agent(self, name: AgentName) -> Agent:
        """Raises AGENT_NOT_FOUND."""

    async def list_agents(
        self,
        town: str,
        *,
        after: str = "",
        limit: int = 50,
        state: State | None = None,
        role: Role | None = None,
    ) -> AgentPage:
        """Records behind `after`, in the order of the last list, then by name; fewer
        than `limit` when they are large."""

    async def replace_spec(self, name: AgentName, spec: AgentSpec, etag: str) -> Agent:
        """Replaces the spec of exactly this version of the record."""

    async def deregister_agent(self, name: AgentName, etag: str = "") -> None:
        """Forgets the record, inbox, nudges, reports and events, never the epoch nor
        the last id of an event. Raises AGENT_NOT_FOUND, ETAG_MISMATCH, LEASE_HELD."""

    async def replace_agents(self, town: str, entries: Sequence[Entry]) -> list[str]:
        """Makes these the agents that must run; returns the others that stay because
        a live instance holds them. Raises TOO_MANY_AGENTS."""


class LeaseStore(Protocol):
    """Instances, leases and drains of towns."""

    async def register_instance(
        self, name: InstanceName, boot_id: str, address: str, capacity: int = 0
    ) -> Instance:
        """Takes the slot; with a new boot, also ends the drain of the town."""

    async def heartbeat(
        self,
        name: InstanceName,
        boot_id: str,
        runs: Sequence[Evidence] = (),
        *,
        leaving: bool = False,
    ) -> Pulse:
        """Renews the instance. One that has said that it leaves is given no more
        agents, and what it was handed and not told of is on offer.

        Raises INSTANCE_NOT_FOUND, LEASE_FENCED.
        """

    async def list_instances(self, town: str) -> list[Instance]:
        """All instances by name, expired ones of the last hour included."""

    async def release_instance(self, name: InstanceName, boot_id: str) -> None:
        """Ends the instance; absent is fine. Raises LEASE_FENCED."""

    async def resolve(self, name: AgentName) -> Resolution:
        """Raises NO_INSTANCE."""

    async def claim(
        self,
        name: InstanceName,
        boot_id: str,
        agents: Sequence[str] = (),
        limit: int = 100,
        *,
        renew: bool = False,
    ) -> list[tuple[Agent, bool]]:
        """Leases for the instance, each with whether a dead holder had it.

        Without names: active agents that nobody holds, at most `limit` and the
        instance's capacity; entries of a list only if the instance registered after
        it. Those it was handed or holds already come along. With names: all of them or
        none; `renew` gives those it holds their next epoch too, also while it drains.
        Raises INSTANCE_NOT_FOUND, LEASE_FENCED, DRAINING, AGENT_NOT_FOUND,
        NO_START_REQUEST, LEASE_HELD.
        """

    async def release(
        self, name: InstanceName, boot_id: str, releases: Sequence[Release]
    ) -> list[str]:
        """Gives leases back; returns the agents whose lease was not held any more.

        What must run elsewhere is handed on by one that leaves or drains: to the ready
        instance that it fills least, under the next epoch. `hints` and heartbeats tell
        that one, until it claims. Anybody may claim what nobody has room for.
        """

    async def announce_drain(self, town: str, slots: Sequence[str] = ()) -> Drain:
        """Binds these live instances, none means all, to those already bound. Raises
        INSTANCE_NOT_FOUND."""

    async def get_drain(self, town: str) -> Drain | None:
        """The drain that is on."""

    async def confirm_ready(self, town: str, nonce: str) -> bool:
        """Ends the drain of that nonce; True when none is on any more."""


class InboxStore(Protocol):
    """Messages accepted for agents."""

    async def enqueue(
        self, name: MessageName, text: str, model: str = ""
    ) -> tuple[Message, bool]:
        """Accepts the message; the same id and content again is the same message,
        then False. Raises AGENT_NOT_FOUND, MESSAGE_REUSED, INBOX_FULL."""

    async def list_messages(
        self,
        name: AgentName,
        *,
        after: str = "",
        limit: int = 50,
        state: MessageState | None = None,
    ) -> MessagePage:
        """Messages behind `after` in order of acceptance. Raises AGENT_NOT_FOUND."""

    async def acknowledge(self, name: MessageName, proof: Acknowledgement) -> Message:
        """Settles the message; the same outcome again changes nothing. Raises
        MESSAGE_NOT_FOUND, LEASE_FENCED, FIELD_INVALID, FIELD_REQUIRED."""

    async def waiting_agents(self, town: str) -> list[str]:
        """Agents that have pending messages."""

    def hints(self, town: str) -> AbstractAsyncContextManager[AsyncIterator[Hint]]:
        """Agents that get a message, instances that are handed leases, and that some
        are on offer, from now on; "" says that some may have been missed. Raises
        WATCHER_TOO_SLOW from the iterator, and STORE_UNAVAILABLE."""


class CallbackStore(Protocol):
    """What agents say of themselves."""

    async def report(self, name: AgentName, report: Report) -> str:
        """Keeps it as the last of its kind; returns the nonce of the drain that is
        on, or nothing. Raises AGENT_NOT_FOUND."""

    async def reports(self, name: AgentName) -> list[Told]:
        """The last of each kind, in the order of KINDS. Raises AGENT_NOT_FOUND."""

    async def append_event(
        self, name: AgentName, event_type: str, data_json: str, request_id: str = ""
    ) -> AgentEvent:
        """Appends to the log, whose oldest events are dropped beyond its bounds; the
        same id and content again is the same event. Raises AGENT_NOT_FOUND;
        FIELD_INVALID when the id was used otherwise."""

    async def list_events(
        self, name: AgentName, *, after: int = 0, limit: int = 500
    ) -> EventPage:
        """Events with higher ids, oldest first. Raises AGENT_NOT_FOUND."""


class NudgeStore(Protocol):
    """Nudges for agents."""

    async def enqueue_nudge(
        self, name: NudgeName, content: NudgeContent
    ) -> tuple[Nudge, bool]:
        """Accepts the nudge; the same id and content again is the same nudge, then
        False. Raises AGENT_NOT_FOUND, MESSAGE_REUSED, INBOX_FULL."""

    async def list_nudges(self, name: AgentName) -> list[Nudge]:
        """Pending ones, urgent first, then the oldest. Raises AGENT_NOT_FOUND."""

    async def acknowledge_nudge(self, name: NudgeName) -> None:
        """Marks it as delivered; again changes nothing. Raises MESSAGE_NOT_FOUND."""


class ChangeStore(Protocol):
    """The log of what changes in the records of towns, as `get_agent` shows them.

    That a lease begins or ceases to be live, by mere time or otherwise, is a change
    that is written down when the log is next read.
    """

    async def read_changes(self, town: str, after: Position | None = None) -> Changes:
        """What changed after a position, oldest first, as far as one page goes; None
        begins a list of all. Raises RESUME_TOKEN_EXPIRED."""

    def nudges(self, town: str) -> AbstractContextManager[asyncio.Event]:
        """An event that is set whenever there may be changes. That may come late or
        not at all, so look from time to time as well."""


class RevocationStore(Protocol):
    """Tokens that were taken back, of all towns."""

    async def revoke(self, town: str, revocation: Revocation) -> int:
        """Adds to the town's list; returns the oldest token generation that is good
        still. Raises STORAGE_FULL when the list has too many entries."""

    async def begin_run(
        self, name: AgentName, epoch: int, run: str, kept_for: timedelta
    ) -> None:
        """Makes this the agent's run, whose tokens live so long; another one's that
        it replaces are revoked. Raises LEASE_FENCED for an epoch below the last."""

    async def revocations(self, since: int = 0) -> News:
        """The lists that changed after a revision, 0 for all. What was to be kept only
        until now is left out."""


class RegistryStore(
    AgentStore,
    LeaseStore,
    InboxStore,
    CallbackStore,
    NudgeStore,
    ChangeStore,
    RevocationStore,
    Protocol,
):
    """All of it, over one store."""

    async def check(self) -> None:
        """Raises unless the store answers and keeps what it acknowledges."""
