"""Supervisors that die often, each agent's over disks of its own and one snapshot
service that lives on."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import apsw

from services.chassis.channels import StaticToken, open_sync_channel
from tests.support.lives import Lives
from tests.support.snapshots_process import SnapshotsProcess
from tests.support.steps import taken
from tests.support.tokens import TOWN
from townkeeper.snapshots.v1 import snapshots_pb2 as pb
from townkeeper.snapshots.v1.resources_pb2 import Snapshot
from townkeeper.snapshots.v1.snapshots_pb2_grpc import SnapshotServiceStub

PROGRAM = "tests.faults.supervisor.dying_supervisor"
SIGKILLED = -9
_UUID = re.compile(r"[0-9a-f-]{36}")

# What an agent's database holds, one word for each commit; None: there is none.
Notes = list[str] | None


@dataclass
class Life:
    """What one did, and said of it."""

    steps: list[str]
    said: list[tuple[str, Any]]

    @property
    def written(self) -> list[str]:
        return [what.split()[1] for what, _ in self.said if what.startswith("write")]

    @property
    def acknowledged(self) -> list[str]:
        """What was written before the last save that was answered."""
        saves = [at for at, (what, _) in enumerate(self.said) if what == "save"]
        return Life([], self.said[: saves[-1]]).written if saves else []

    def did(self, what: str) -> bool:
        return any(done == what for done, _ in self.said)

    @property
    def reports(self) -> list[tuple[int, list[str]]]:
        """Generation and notes, each time that it was asked for them."""
        return [(one[0], one[1]) for what, one in self.said if what == "report"]


@dataclass
class Fleet:
    """One agent after the other."""

    folder: Path
    lives: Lives
    snapshots: SnapshotsProcess
    token: str
    _agents: int = 0
    _epoch: int = 0
    _disks: dict[str, Path] = field(default_factory=dict)

    def new_agent(self) -> None:
        """Nothing is left of the one before but its snapshots."""
        for disk in self._disks.values():
            shutil.rmtree(disk)
        self._disks.clear()
        self._agents += 1
        self._epoch = 0

    @property
    def agent(self) -> str:
        return f"agent-{self._agents}"

    def disk(self, name: str) -> Path:
        """Empty when it is first asked for."""
        if name not in self._disks:
            self._disks[name] = self.folder / f"{self.agent}-{name}"
            self._disks[name].mkdir()
        return self._disks[name]

    def live(self, disk: str, do: Sequence[str], die_at: int = 0) -> Life:
        """A supervisor to its end, or to its death at a step."""
        self._epoch += 1
        armed, log = self.folder / "armed", self.folder / "log"
        armed.write_text("")
        self.lives.start(
            log,
            TK_AGENT=f"towns/{TOWN}/agents/{self.agent}",
            TK_SNAPSHOTS=self.snapshots.address,
            TK_TOKEN=self.token,
            TK_DISK=str(self.disk(disk)),
            TK_EPOCH=str(self._epoch),
            TK_DO=json.dumps(do),
            TK_ARMED=str(armed),
            TK_DIE_AT=str(die_at),
        )
        said = []
        while (line := self.lives.line()).startswith("["):
            what, answer = json.loads(line)
            said.append((what, answer))
        assert self.lives.code == (SIGKILLED if die_at else 0), log.read_text()[-9000:]
        steps = [step.replace(self.agent, "agent") for step in taken(armed)]
        return Life(steps, said)

    # disk

    def at_place(self, disk: str) -> Notes:
        """The notes in the database at its place."""
        return self._notes(self._root(disk) / "home")

    def aside(self, disk: str) -> list[Notes]:
        """The notes in each database that was set aside."""
        return [self._notes(one) for one in sorted(self._root(disk).glob("aside/*"))]

    def files(self, disk: str) -> set[str]:
        """All but what was set aside, under names that are the same in each life."""
        root = self.disk(disk)
        return {
            _UUID.sub("*", str(path.relative_to(root))).replace(self.agent, "agent")
            for path in root.rglob("*")
            if path.is_file() and "aside" not in path.parts
        }

    def _root(self, disk: str) -> Path:
        return self.disk(disk) / "agents" / self.agent

    def _notes(self, folder: Path) -> Notes:
        """Read in a copy, as whoever comes next would: with the log beside it."""
        if not (folder / "agent.db").exists():
            return None
        copy = self.folder / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        copy.mkdir()
        for suffix in ("", "-wal", "-journal"):
            part = folder / f"agent.db{suffix}"
            if part.exists():
                shutil.copy(part, copy)
        return notes(copy / "agent.db")

    # store

    def chains(self) -> dict[int, int]:
        """Generations of this agent, and as how many segments each reads."""
        return {one.generation: len(one.segments) for one in self._listed()}

    def digests(self, generation: int) -> list[bytes]:
        """Of the segments of a generation."""
        [found] = [one for one in self._listed() if one.generation == generation]
        return [segment.blake3 for segment in found.segments]

    def _listed(self) -> Sequence[Snapshot]:
        request = pb.ListSnapshotsRequest(parent=f"towns/{TOWN}/agents/{self.agent}")
        with self._channel() as channel:
            return SnapshotServiceStub(channel).ListSnapshots(request).snapshots

    def stored(self, generation: int) -> Notes:
        """The notes in a generation."""
        name = f"towns/{TOWN}/agents/{self.agent}/snapshots/{generation}"
        request = pb.DownloadSnapshotRequest(name=name)
        path = self.folder / "downloaded.db"
        with self._channel() as channel:
            frames = SnapshotServiceStub(channel).DownloadSnapshot(request)
            path.write_bytes(b"".join(frame.chunk.data for frame in frames))
        return notes(path)

    def _channel(self) -> Any:
        return open_sync_channel(self.snapshots.address, StaticToken(self.token))


def notes(database: Path) -> list[str]:
    """What is in it; fails unless it is sound."""
    connection = apsw.Connection(str(database))
    try:
        assert "ok" == connection.pragma("integrity_check")
        tables = connection.execute("SELECT name FROM sqlite_schema").fetchall()
        if ("note",) not in tables:
            return []
        return [text for [text] in connection.execute("SELECT text FROM note")]
    finally:
        connection.close()
