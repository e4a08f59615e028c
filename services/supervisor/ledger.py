"""What runs in this container, written down before it runs: after a crash of the
supervisor its successor finds by it what must be saved and ended."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from services.chassis.names import AgentName
from services.supervisor.process_tree import ProcessIdentity
from services.supervisor.tree_kill import kill_tree, leftovers, send


@dataclass(frozen=True, slots=True)
class Entry:
    """A run whose process was made."""

    run: str
    process: ProcessIdentity
    digest: str  # of the spec that it was started with
    started_at: datetime
    workdir: str = ""
    resumed: bool = False
    models: tuple[str, str] | None = None  # given since its start


class Ledger:
    """One small file for each agent that may have processes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def intend(self, name: AgentName, run: str) -> None:
        """A process of this run is about to be made; its mark is known already."""
        self._write(name, {"run": run})

    def started(self, name: AgentName, entry: Entry) -> None:
        """The process of this run is this one."""
        process = entry.process
        self._write(
            name,
            {
                "run": entry.run,
                "process": [process.pid, process.started_ticks, process.boot_id],
                "digest": entry.digest,
                "started_at": entry.started_at.isoformat(),
                "workdir": entry.workdir,
                "resumed": entry.resumed,
                "models": entry.models,
            },
        )

    def living(self, name: AgentName, digest: str) -> Entry | None:
        """The run whose process lives still, if it was started with that spec."""
        try:
            stored = json.loads(self._path(name).read_text())
            models = stored["models"]
            entry = Entry(
                run=stored["run"],
                process=ProcessIdentity(*stored["process"]),
                digest=stored["digest"],
                started_at=datetime.fromisoformat(stored["started_at"]),
                workdir=stored["workdir"],
                resumed=stored["resumed"],
                models=(models[0], models[1]) if models else None,
            )
        except (OSError, ValueError, KeyError, TypeError, IndexError):
            return None
        return entry if entry.digest == digest and entry.process.alive() else None

    def thaw(self, name: AgentName) -> None:
        """Lets go on what a predecessor had stopped when it died."""
        for process in self.leftovers(name):
            send(process, signal.SIGCONT)

    def forget(self, name: AgentName) -> None:
        """No process of this agent is left."""
        self._path(name).unlink(missing_ok=True)

    def agents(self, town: str) -> list[AgentName]:
        """Agents that a predecessor may have left processes of."""
        return [AgentName(town, path.stem) for path in self._folder.glob("*.json")]

    def leftovers(self, name: AgentName) -> list[ProcessIdentity]:
        """Processes of the agent's recorded run that still live."""
        run, roots = self._read(name)
        return leftovers([run], roots)

    def processes(self, town: str) -> list[ProcessIdentity]:
        """All that lives of all agents."""
        runs, roots = [], []
        for name in self.agents(town):
            run, root = self._read(name)
            runs.append(run)
            roots += root
        return leftovers(runs, roots)

    async def end(self, name: AgentName) -> int:
        """Kills what is left of the agent's recorded run; returns how many."""
        found = await asyncio.to_thread(self.leftovers, name)
        if found:
            run, _ = self._read(name)
            await kill_tree([run], found)
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
