"""A supervisor's inside around one agent's database, killing itself at one durable
step: a program for tests.

`TK_DO` is what it does, one after the other, each told on standard output when it is
done: `hydrate`, `write <text>`, `checkpoint`, `save`, `restore <generation>`, `close`,
`report`.
What it does to disk below `TK_DISK` are steps, and so are its calls to the snapshot
service. SQLite's own steps are not seen: a reader makes none that last.
"""

from __future__ import annotations

import asyncio
import faulthandler
import json
import os
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import apsw

from services.chassis.channels import StaticToken
from services.chassis.clock import SystemClock
from services.chassis.names import AgentName
from services.chassis.telemetry import configure_logging
from services.supervisor.exec_runtime import DATABASE_DEFAULT, ExecPolicy, ExecRuntime
from services.supervisor.hydrate import Hydrator
from services.supervisor.ledger import Ledger
from services.supervisor.places import Places
from services.supervisor.saver import Saver
from services.supervisor.snapshots_client import SnapshotsClient
from services.supervisor.specs import AgentSpec, Claim, Identity, Role
from tests.support.steps import Steps

LIFE_S_MAX = 60


class Supervisor:
    """One life of it, under an epoch of its own."""

    def __init__(self, disk: Path, name: AgentName, epoch: int) -> None:
        self.places = Places(disk / "agents" / name.agent)
        spec = AgentSpec("rig-1", Role.MAYOR, runtime="exec", command=("true",))
        self._claim = Claim(name, spec, epoch, 0)
        identity = Identity(name.town, "container-1", str(uuid.uuid4()))
        token = StaticToken(os.environ["TK_TOKEN"])
        self.client = SnapshotsClient(os.environ["TK_SNAPSHOTS"], token, identity)
        self._hydrator = Hydrator(
            snapshots=self.client,
            runtimes={"exec": ExecRuntime(ExecPolicy(any_program=True))},
            ledger=Ledger(disk / "ledger"),
            clock=SystemClock(),
            places=lambda name: self.places,
            prepare_workspace=self._workspace,
        )
        self._saver: Saver | None = None
        self._agent: apsw.Connection | None = None
        self._open = ExitStack()

    async def do(self, what: str) -> object:
        match what.split():
            case ["hydrate"]:
                found = await self._hydrator.hydrate(self._claim, "run", crashed=False)
                self._saver = found.saver
                return found.saver.generation
            case ["write", text]:
                self._write(text)
            case ["checkpoint"]:
                self.agent.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
            case ["save"]:
                return await self.saver.save()
            case ["restore", number]:
                await self._hydrator.restore(self._claim, int(number))
            case ["close"]:
                await self.saver.close()
                self._open.close()
            case ["report"]:
                return [self.saver.generation, self.rows()]
        return ""

    @property
    def saver(self) -> Saver:
        assert self._saver is not None
        return self._saver

    @property
    def agent(self) -> apsw.Connection:
        """The agent's own, kept open: so its log outlives it, as after a SIGKILL."""
        if self._agent is None:
            self._agent = apsw.Connection(str(self.places.home / DATABASE_DEFAULT))
            self._open.callback(self._agent.close)
            self._agent.set_busy_timeout(2000)
            self._agent.pragma("journal_mode", "wal")
            # One note a page: a log without the pages before it makes no sense.
            self._agent.execute("CREATE TABLE IF NOT EXISTS note (text, padding)")
            # A note is a small change then: a small database is saved whole.
            self._agent.execute(
                "CREATE TABLE IF NOT EXISTS ballast AS SELECT randomblob(200000)"
            )
        return self._agent

    def _write(self, text: str) -> None:
        self.agent.execute("INSERT INTO note VALUES (?, zeroblob(3000))", (text,))

    def rows(self) -> list[str]:
        return [text for [text] in self.agent.execute("SELECT text FROM note")]

    async def _workspace(self, name: AgentName, spec: AgentSpec) -> Path:
        return self.places.root


def step_through_calls(steps: Steps) -> None:
    for name in ("advance", "get", "older", "upload"):
        real = getattr(SnapshotsClient, name)
        setattr(SnapshotsClient, name, steps.around(name, real))
    download = SnapshotsClient.download

    async def stepping(self: SnapshotsClient, *args: Any) -> AsyncIterator[bytes]:
        steps.take("download")
        async for part in download(self, *args):
            yield part
        steps.take("download answered")

    setattr(SnapshotsClient, "download", stepping)  # noqa: B010


async def live() -> None:
    name = AgentName.parse(os.environ["TK_AGENT"])
    supervisor = Supervisor(
        Path(os.environ["TK_DISK"]), name, int(os.environ["TK_EPOCH"])
    )
    for what in json.loads(os.environ["TK_DO"]):
        done = await supervisor.do(what)
        sys.stdout.write(json.dumps([what, done]) + "\n")
        sys.stdout.flush()
    await supervisor.client.close()


def main() -> int:
    """One life."""
    configure_logging("supervisor")
    faulthandler.dump_traceback_later(LIFE_S_MAX, exit=True)
    steps = Steps(Path(os.environ["TK_DISK"]))
    steps.watch_disk()
    step_through_calls(steps)
    asyncio.run(live())
    return 0
