"""Containers over one plane: a supervisor's inside with neighbours in memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from services.chassis.clock import SystemClock
from services.chassis.names import AgentName
from services.supervisor.agent import Agent
from services.supervisor.events import EventLog
from services.supervisor.hydrate import Hydrator
from services.supervisor.ledger import Ledger
from services.supervisor.places import Places
from services.supervisor.specs import AgentSpec, Identity
from services.supervisor.surroundings import Surroundings
from tests.fakes.registry_client import FakeRegistry
from tests.fakes.runtime import FakeRuntime
from tests.fakes.snapshots_client import FakeSnapshots

NAME = AgentName("t", "a")


@dataclass
class World:
    """One container after another, over one plane that outlives them."""

    tmp_path: Path
    registry: FakeRegistry
    snapshots: FakeSnapshots
    runtime: FakeRuntime
    containers: int = 0
    agents: list[Agent] = field(default_factory=list)

    async def boot(self, *, fresh_disk: bool = False) -> Agent:
        """The agent in a new supervisor, on the disk of the last or an empty one.

        The supervisor before it dies: nothing more of it is saved or released.
        """
        await self.die()
        self.agents.append(Agent(NAME, self.surroundings(fresh_disk=fresh_disk)))
        return self.agents[-1]

    async def die(self) -> None:
        """Ends all that the last supervisor still does, as SIGKILL would."""
        for agent in self.agents:
            await agent._errand.drop()
            if agent._live is not None:
                await agent._live.end()
            if agent._saver is not None:
                await agent._saver.close()
                agent._saver._places.page_map.unlink(missing_ok=True)
        self.agents.clear()

    def surroundings(self, *, fresh_disk: bool = False) -> Surroundings:
        """A new supervisor's inside."""
        if fresh_disk or not self.containers:
            self.containers += 1
        disk = self.tmp_path / f"container-{self.containers}"
        clock = SystemClock()
        ledger = Ledger(disk / "ledger")
        hydrator = Hydrator(
            snapshots=self.snapshots,  # type: ignore[arg-type]
            runtimes={"exec": self.runtime},
            ledger=ledger,
            clock=clock,
            places=partial(Places.of, disk),
            prepare_workspace=self._workspace,
        )
        self.registry.held.clear()
        return Surroundings(
            identity=Identity("t", "slot", f"boot-{self.containers}"),
            data_dir=disk,
            clock=clock,
            events=EventLog("boot", clock),
            ledger=ledger,
            registry=self.registry,  # type: ignore[arg-type]
            hydrator=hydrator,
            runtimes={"exec": self.runtime},
        )

    async def _workspace(self, name: AgentName, spec: AgentSpec) -> Path:
        return self.tmp_path
