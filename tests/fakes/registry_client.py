"""The registry in memory, as the supervisor's client sees it: leases with epochs and
an inbox. One instance, whose boot the test names."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from services.chassis.errors import Reason, ServiceError
from services.chassis.names import AgentName
from services.supervisor.credential import IssuedToken
from services.supervisor.inbox import InboxMessage, Outcome
from services.supervisor.registry_client import Evidence, Pulse
from services.supervisor.specs import AgentSpec, Claim


@dataclass
class FakeRegistry:
    """Records everything that a supervisor tells it."""

    specs: dict[AgentName, AgentSpec] = field(default_factory=dict)
    epochs: dict[AgentName, int] = field(default_factory=dict)
    held: set[AgentName] = field(default_factory=set)
    ended: dict[AgentName, str] = field(default_factory=dict)
    waiting: list[InboxMessage] = field(default_factory=list)
    acknowledged: list[tuple[str, Outcome, int]] = field(default_factory=list)
    settled: asyncio.Event = field(default_factory=asyncio.Event)
    lost: tuple[AgentName, ...] = ()  # what the next heartbeat says as well
    deaf: bool = False  # releases and tokens do not reach it
    issued: list[str] = field(default_factory=list)  # runs, one for each token
    revoked: list[str] = field(default_factory=list)
    claimable: int = 0  # what the next heartbeat says
    claims: int = 0  # how often it was asked
    losing_answers: bool = False  # to claims
    waiting_for_boot: set[AgentName] = field(default_factory=set)
    hints: list[AgentName | None] = field(default_factory=list)  # still to be told
    leaving: bool = False  # what the last heartbeat said

    async def issue_agent_token(
        self, name: AgentName, epoch: int, run: str, life_s: float
    ) -> IssuedToken:
        if self.deaf:
            raise ServiceError(Reason.SERVICE_UNAVAILABLE, "cannot reach the registry")
        if epoch != self.epochs.get(name):
            raise ServiceError(Reason.LEASE_FENCED, "cannot act on it")
        self.issued.append(run)
        expires = datetime.now(UTC) + timedelta(seconds=life_s)
        return IssuedToken(f"token-{len(self.issued)}", expires)

    async def revoke_run(self, name: AgentName, run: str, expires: datetime) -> None:
        if self.deaf:
            raise ServiceError(Reason.SERVICE_UNAVAILABLE, "cannot reach the registry")
        self.revoked.append(run)

    async def heartbeat(
        self, runs: Iterable[Evidence], *, leaving: bool = False
    ) -> Pulse:
        self.leaving = leaving
        others = tuple(run.agent for run in runs if not self._is_of(run))
        return Pulse(10.0, self.lost + others, (), self.claimable)

    def _is_of(self, run: Evidence) -> bool:
        return run.agent in self.held and run.epoch == self.epochs[run.agent]

    async def claim(
        self, agents: Iterable[AgentName] = (), *, renew: bool = False
    ) -> list[Claim]:
        names = list(agents) or [n for n in self.specs if n not in self.ended]
        self.claims += 1
        for name in names:
            if name not in self.specs:
                raise ServiceError(Reason.AGENT_NOT_FOUND, f"cannot find {name}")
            if renew or name not in self.held:
                self.epochs[name] = self.epochs.get(name, 0) + 1
                self.held.add(name)
                self.ended.pop(name, None)
        if self.losing_answers:
            raise ServiceError(Reason.SERVICE_UNAVAILABLE, "cannot reach the registry")
        return [Claim(n, self.specs[n], self.epochs[n], 0) for n in names]

    async def release(
        self,
        name: AgentName,
        epoch: int,
        end_reason: str = "",
        *,
        wait_for_boot: bool = False,
    ) -> None:
        if self.deaf:
            raise ServiceError(Reason.SERVICE_UNAVAILABLE, "cannot reach the registry")
        if name not in self.held or epoch != self.epochs[name]:
            return
        self.held.discard(name)
        if end_reason:
            self.ended[name] = end_reason
        if wait_for_boot:
            self.waiting_for_boot.add(name)

    async def watch_messages(self) -> AsyncIterator[AgentName | None]:
        while self.hints:
            yield self.hints.pop(0)

    async def pending(self, name: AgentName) -> list[InboxMessage]:
        return list(self.waiting)

    async def acknowledge(
        self,
        name: AgentName,
        message_id: str,
        *,
        epoch: int,
        generation: int,
        outcome: Outcome,
    ) -> None:
        self.acknowledged.append((message_id, outcome, generation))
        self.waiting = [one for one in self.waiting if one.id != message_id]
        self.settled.set()
