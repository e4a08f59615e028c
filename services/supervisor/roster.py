"""All agents of this supervisor; finds the one that a call is about."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from typing import Any, Final, TypeVar

import structlog

from services.chassis.errors import Reason, ServiceError
from services.chassis.names import AgentName
from services.supervisor.agent import STOP_GRACE_S, Agent
from services.supervisor.registry_client import Evidence
from services.supervisor.run import Run, no_run, shutting_down
from services.supervisor.saver import Saver
from services.supervisor.specs import Claim
from services.supervisor.surroundings import Surroundings

log = structlog.get_logger()

T = TypeVar("T")

# Boots at once: a runtime takes a core for seconds to get ready, so more only make
# all of them slower to answer.
BOOTS_AT_ONCE: Final = 4


class Roster:
    """The agents, by name. One that has ended stays until it is started anew."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._agents: dict[AgentName, Agent] = {}
        self._boots = asyncio.Semaphore(BOOTS_AT_ONCE)
        self._booting: dict[AgentName, int] = {}  # their epochs

    @property
    def agents(self) -> list[Agent]:
        return sorted(self._agents.values(), key=lambda agent: str(agent.name))

    def find(self, name: AgentName) -> Agent:
        """The agent, or RUN_NOT_FOUND."""
        self.check_town(name.town)
        agent = self._agents.get(name)
        if agent is None or agent.run is None:
            raise no_run(name)
        return agent

    def wake(self, names: Iterable[AgentName]) -> None:
        """Says that these agents may have messages; strangers are ignored."""
        for name in names:
            agent = self._agents.get(name)
            if agent is not None:
                agent.wake()

    async def start(self, name: AgentName) -> Run:
        """Starts an agent. A caller that goes away does not undo it."""
        return await _to_its_end(self._agent(name).start())

    async def stop(self, name: AgentName, grace_s: float = STOP_GRACE_S) -> Run:
        waits = name in self._booting
        return await _to_its_end(self.find(name).stop(grace_s, waits=waits))

    async def save(self, name: AgentName) -> Saver:
        return await _to_its_end(self.find(name).save())

    async def restore(self, name: AgentName, generation: int) -> tuple[int, int]:
        return await _to_its_end(self._agent(name).restore(generation))

    async def boot(self, claims: list[Claim]) -> None:
        """Brings back what was claimed, a few at a time."""

        async def bring_back(claim: Claim) -> None:
            self._booting[claim.name] = claim.epoch
            try:
                async with self._boots:
                    agent = self._agents.setdefault(
                        claim.name, Agent(claim.name, self._around)
                    )
                    if self._around.leaving.is_set():
                        await agent.give_back(claim)
                    else:
                        await agent.resume(claim)
            finally:
                del self._booting[claim.name]

        # Not a task group: one that fails must not cancel the others.
        steps = [bring_back(claim) for claim in claims]
        for result in await asyncio.gather(*steps, return_exceptions=True):
            if isinstance(result, BaseException):
                log.error("agent.boot_failed", exc_info=result)

    async def take_over(self, claims: Iterable[Claim]) -> None:
        """Brings back those that are new here; the registry names what is held too.
        Who is about to go gives them back at once."""
        new = []
        for claim in claims:
            agent = self._agents.get(claim.name)
            taken = agent.taken if agent is not None else 0
            if claim.epoch > max(taken, self._booting.get(claim.name, 0)):
                new.append(claim)
        if self._around.leaving.is_set():
            for claim in new:
                await self._around.release(claim, "")
            return
        if new:
            log.info("agents.taken_over", agents=[str(claim.name) for claim in new])
            await self.boot(new)

    async def leave(
        self,
        grace_s: float,
        *,
        cut: asyncio.Event | None = None,
        on_left: Callable[[Agent], Awaitable[None]] | None = None,
    ) -> None:
        """Stops and saves every agent; each must run elsewhere. One that works may end
        its turn until `cut` is set. Never raises: `on_left` is told of each, and its
        run says what went wrong."""
        self._around.leaving.set()

        async def leave(agent: Agent) -> None:
            try:
                await agent.leave_in_time(grace_s, cut)
            except Exception as error:  # each is on its own
                log.error("agent.leave_failed", agent=str(agent.name), why=str(error))
                if agent.run is not None:
                    agent.run.error = str(error)
            if on_left is not None:
                await on_left(agent)

        await asyncio.gather(*map(leave, self.agents), return_exceptions=True)
        await self._around.settle()

    def lost(self, leases: Mapping[AgentName, int], why: str) -> None:
        """Has agents ended whose lease, of this epoch, is another's. Does not wait: the
        heartbeat that heard of it must go on for the others."""
        for name, epoch in leases.items():
            if name in self._agents:
                self._around.keep(self._agents[name].lost(epoch, why))

    async def lost_all(self, why: str) -> None:
        """Ends every agent: another boot has our slot."""
        self._around.leaving.set()
        self.lost({agent.name: agent.epoch for agent in self.agents}, why)
        await self._around.settle()

    def evidence(self) -> list[Evidence]:
        """What a heartbeat hands in."""
        return [
            Evidence(
                agent=agent.name,
                epoch=agent.epoch,
                alive=agent.run.alive,
                generation=agent.run.generation,
                last_event_at=agent.run.active_at,
                active_tools=tuple(agent.run.active_tools.values()),
                failed_starts=agent.failed_starts,
                last_error=agent.run.error if agent.failed_starts else "",
            )
            for agent in self.agents
            if agent.run is not None and agent.holds_lease
        ]

    def _agent(self, name: AgentName) -> Agent:
        self.check_town(name.town)
        if self._around.leaving.is_set():
            raise shutting_down()
        return self._agents.setdefault(name, Agent(name, self._around))

    def check_town(self, asked: str) -> None:
        """Refuses another town's: its callers have no business with what runs here."""
        town = self._around.identity.town
        if asked != town:
            raise ServiceError(
                Reason.TOWN_FOREIGN,
                f"cannot serve town {asked}: this instance is of town {town}",
            )


async def _to_its_end(step: Coroutine[Any, Any, T]) -> T:
    """A step that was begun is finished, whether or not its caller still listens."""
    return await asyncio.shield(asyncio.ensure_future(step))
