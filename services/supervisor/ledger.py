"""What runs in this container, written down before it runs: after a crash of the
supervisor its successor finds by it what must be saved and ended."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

from services.chassis.names import AgentName
from services.supervisor import spawn
from services.supervisor.process_tree import ProcessIdentity, identify


class Ledger:
    """One small file for each agent that may have processes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def intend(self, name: AgentName, run: str) -> None:
        """A process of this run is about to be made; its mark is known already."""
        self._write(name, {"run": run})

    def started(self, name: AgentName, run: str, pid: int) -> None:
        """The process of this run has this pid."""
        identity = identify(pid)
        entry: dict[str, object] = {"run": run}
        if identity is not None:
            entry["process"] = [
                identity.pid,
                identity.started_ticks,
                identity.boot_id,
            ]
        self._write(name, entry)

    def forget(self, name: AgentName) -> None:
        """No process of this agent is left."""
        self._path(name).unlink(missing_ok=True)

    def agents(self, town: str) -> list[AgentName]:
        """Agents that a predecessor may have left processes of."""
        return [AgentName(town, path.stem) for path in self._folder.glob("*.json")]

    def leftovers(self, name: AgentName) -> list[ProcessIdentity]:
        """Processes of the agent's recorded run that still live."""
        run, roots = self._read(name)
        return spawn.leftovers([run], roots)

    def processes(self, town: str) -> list[ProcessIdentity]:
        """All that lives of all agents."""
        runs, roots = [], []
        for name in self.agents(town):
            run, root = self._read(name)
            runs.append(run)
            roots += root
        return spawn.leftovers(runs, roots)

    async def end(self, name: AgentName) -> int:
        """Kills what is left of the agent's recorded run; returns how many."""
        found = self.leftovers(name)
        if found:
            run, _ = self._read(name)
            await spawn.kill_tree([run], found)
        self.forget(name)
        return len(found)

    def _read(self, name: AgentName) -> tuple[str, list[ProcessIdentity]]:
        """The recorded run and its process; neither when there is no sound entry."""
        try:
            entry = json.loads(self._path(name).read_text())
            run, process = str(entry["run"]), entry.get("process")
            return run, [ProcessIdentity(*process)] if process else []
        except (OSError, ValueError, KeyError, TypeError):
            return "", []

    def _path(self, name: AgentName) -> Path:
        return self._folder / f"{name.agent}.json"

    def _write(self, name: AgentName, entry: dict[str, object]) -> None:
        path = self._path(name)
        fresh = path.with_suffix(".new")
        with fresh.open("w") as file:
            json.dump(entry, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, path)
        with contextlib.suppress(OSError):
            folder = os.open(self._folder, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
