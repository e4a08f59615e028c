"""An agent with a large session, as the plane's clients see it: start, save, stop."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.database import Bulk
from tests.support.plane import PlaneProcess
from townkeeper.registry.v1 import resources_pb2
from townkeeper.supervisor.v1 import supervisor_pb2

DATABASE: Final = "bench.db"
CALL_S: Final = 900.0
# The agent does nothing: whoever measures writes to its database.
_PROGRAM: Final = "import sys; sys.stdin.read()"


@dataclass(frozen=True, slots=True)
class Session:
    """One idle agent and its database."""

    plane: PlaneProcess
    agent: str

    @property
    def name(self) -> str:
        return self.plane.agent_name(self.agent)

    @property
    def root(self) -> Path:
        """All of the agent's folders in its container."""
        return self.plane.data.container / "agents" / self.agent

    @property
    def database(self) -> Path:
        return self.root / "home" / DATABASE

    def start(self) -> None:
        """Returns when its session is in place and it runs."""
        spec = resources_pb2.AgentSpec(
            rig_id="rig-1",
            role=resources_pb2.ROLE_POLECAT,
            lightweight=True,
            runtime=resources_pb2.RUNTIME_EXEC,
            command=[sys.executable, "-S", "-c", _PROGRAM],
            database=DATABASE,
        )
        request = supervisor_pb2.StartAgentRequest(name=self.name, spec=spec)
        self.plane.supervisor().StartAgent(request, timeout=CALL_S)

    def prepare(self, bulk: Bulk) -> Path:
        """A copy beside the place where `reveal` puts it."""
        return bulk.copy_to(self.database.with_name("prepared.db"))

    def reveal(self, prepared: Path) -> None:
        """This is its database from now on. In one step: nobody sees half of it."""
        os.replace(prepared, self.database)

    def save(self) -> int:
        """The generation that holds all there is, durable."""
        request = supervisor_pb2.SaveAgentRequest(name=self.name)
        reply = self.plane.supervisor().SaveAgent(request, timeout=CALL_S)
        return int(reply.generation)

    def stop(self) -> None:
        request = supervisor_pb2.StopAgentRequest(name=self.name)
        self.plane.supervisor().StopAgent(request, timeout=CALL_S)

    def lose_disk(self) -> None:
        """What its container held of it is gone. It must not run."""
        shutil.rmtree(self.root)
