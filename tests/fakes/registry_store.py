"""The registry's store in memory: the rules of the service, without a server.

It passes the suite that Redis passes. Time is the clock's, so a test can let leases
run out without waiting.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from services.chassis.names import AgentName, MessageName
from services.registry import refusals
from services.registry.hints import Hint
from services.registry.inbox import (
    PENDING_MAX,
    Acknowledgement,
    Message,
    MessagePage,
    MessageState,
    position,
)
from services.registry.store import ANSWER_BYTES_MAX
from tests.fakes.registry_agents import MemoryAgents
from tests.fakes.registry_callbacks import MemoryCallbacks
from tests.fakes.registry_changes import MemoryChanges
from tests.fakes.registry_leases import MemoryLeases
from tests.fakes.registry_nudges import MemoryNudges
from tests.fakes.registry_revocations import MemoryRevocations
from tests.fakes.registry_town import Town


class MemoryStore(
    MemoryAgents,
    MemoryLeases,
    MemoryCallbacks,
    MemoryNudges,
    MemoryChanges,
    MemoryRevocations,
):
    """RegistryStore in memory."""

    async def check(self) -> None:
        self._town("any")

    async def enqueue(
        self, name: MessageName, text: str, model: str = ""
    ) -> tuple[Message, bool]:
        town = self._town(name.town)
        agent = AgentName(name.town, name.agent)
        self._record(agent)
        inbox = self._inbox(town, name.agent)
        if known := inbox.get(name.message):
            if (known.text, known.model) != (text, model):
                raise refusals.message_reused(name)
            return known, False
        if self._waiting(town).get(name.agent, 0) >= PENDING_MAX:
            raise refusals.inbox_full(agent, PENDING_MAX)
        sequence = town.sequences[name.agent] = town.sequences.get(name.agent, 0) + 1
        message = Message(
            name, text, model, MessageState.PENDING, sequence, self._now()
        )
        inbox[name.message] = message
        self._note(town, agent)
        self.watchers.tell(name.town, name.agent)
        return message, True

    async def list_messages(
        self,
        name: AgentName,
        *,
        after: str = "",
        limit: int = 50,
        state: MessageState | None = None,
    ) -> MessagePage:
        self._record(name)
        inbox = self._inbox(self._town(name.town), name.agent)
        found: list[Message] = []
        size_bytes = 0
        for message in inbox.values():
            if _position(message) <= after or (state and message.state is not state):
                continue
            size_bytes += len(message.text.encode()) + 512
            if len(found) == limit or (found and size_bytes > ANSWER_BYTES_MAX):
                return MessagePage(tuple(found), _position(found[-1]))
            found.append(message)
        return MessagePage(tuple(found), "")

    async def acknowledge(self, name: MessageName, proof: Acknowledgement) -> Message:
        town = self._town(name.town)
        message = self._inbox(town, name.agent).get(name.message)
        record = town.records.get(name.agent)
        if message is None or record is None:
            raise refusals.message_not_found(name)
        lease = town.leases.get(name.agent)
        holder = (lease.instance, lease.boot_id, lease.epoch) if lease else ("", "", 0)
        if holder != (proof.instance, proof.boot_id, proof.epoch):
            raise refusals.lease_fenced(AgentName(name.town, name.agent), *holder)
        if message.state is not MessageState.PENDING:
            if message.state is not proof.outcome:
                raise refusals.settled_otherwise(name, message.state)
            return message
        spec = record.agent.spec
        if not proof.generation and (spec is None or spec.has_database):
            raise refusals.generation_required(name)
        settled = replace(
            message,
            state=proof.outcome,
            generation=proof.generation,
            acknowledge_time=self._now(),
        )
        town.inboxes[name.agent][name.message] = settled
        if proof.generation > record.agent.generation:
            record.agent = replace(record.agent, generation=proof.generation)
            self._touch(town, record)
        else:
            self._note(town, record.agent.name)
        return settled

    async def waiting_agents(self, town: str) -> list[str]:
        return sorted(self._waiting(self._town(town)))

    @asynccontextmanager
    async def hints(self, town: str) -> AsyncIterator[AsyncIterator[Hint]]:
        self._town(town)
        with self.watchers.watching(town) as watcher:
            yield watcher

    def _inbox(self, town: Town, agent: str) -> dict[str, Message]:
        """The messages that are still remembered, in order of acceptance."""
        inbox = town.inboxes.setdefault(agent, {})
        oldest = self._now() - self._settled_kept
        for message in list(inbox.values()):
            if message.acknowledge_time and message.acknowledge_time <= oldest:
                del inbox[message.name.message]
        return inbox


def _position(message: Message) -> str:
    return position(message.sequence, message.name.message)
