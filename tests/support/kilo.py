"""A real Kilo for tests: installed once, talked to through a stand-in model."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import uuid
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from services.cli.problems import Problem
from services.cli.runtimes import install_kilo
from services.supervisor.empty_repository import make_empty_repository
from services.supervisor.kilo.adapter import DATABASE, KiloRuntime
from services.supervisor.runtime import (
    EventKind,
    Handle,
    Launch,
    Message,
    Mode,
    Output,
    RunSpec,
    RuntimeEvent,
)
from tests.support.waiting import wait_until

START_S = 60.0
TURN_S = 30.0


def installed_kilo() -> Path:
    """The pinned executable; skips the test where it cannot be had."""
    try:
        return install_kilo()
    except Problem as problem:
        pytest.skip(f"no Kilo here: {problem}")


def kilo_config(model_url: str) -> str:
    """A configuration that knows the stand-in model and no other."""
    models = {
        name: {
            "name": name,
            "tool_call": True,
            "limit": {"context": 10**6, "output": 9999},
        }
        for name in ("one", "two")
    }
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "name": "Stand-in",
        "options": {"baseURL": model_url, "apiKey": "none"},
        "models": models,
    }
    return json.dumps(
        {
            "model": "stand-in/one",
            "small_model": "stand-in/one",
            "enabled_providers": ["stand-in"],
            "provider": {"stand-in": provider},
            "permission": "allow",
            "autoupdate": False,
            "share": "disabled",
            "snapshot": False,
            "lsp": False,
            "formatter": False,
        }
    )


class KiloTown:
    """One agent's folders, its runs one after the other, and what was seen of them."""

    def __init__(self, root: Path, model_url: str, program: Path) -> None:
        self.root = root
        self.runtime = KiloRuntime(lambda: program)
        self.events: list[RuntimeEvent] = []
        self.outputs: list[Output] = []
        self.handles: list[Handle] = []
        for name in ("home", "tmp", "work"):
            (root / name).mkdir(parents=True)
        make_empty_repository(root / "work")
        self.launch = Launch(
            town="t",
            rig="r",
            agent="toast",
            run="",
            role="mayor",
            spec=RunSpec(
                "kilo",
                name="Toast",
                env_vars={"KILO_CONFIG_CONTENT": kilo_config(model_url)},
            ),
            home=root / "home",
            workdir=root / "work",
            tmpdir=root / "tmp",
        )

    @property
    def database(self) -> Path:
        return self.launch.home / DATABASE

    async def start(self, resume: str | None = None, **spec: object) -> Handle:
        """A new run of the agent."""
        launch = replace(
            self.launch,
            run=f"test-{uuid.uuid4()}",
            resume_session=resume,
            spec=replace(self.launch.spec, **spec),  # type: ignore[arg-type]
        )
        self.launch = replace(self.launch, run=launch.run)
        handle = await self.runtime.start(
            launch, self.events.append, self.outputs.append
        )
        self.handles.append(handle)
        return handle

    def closed(self, message_id: str) -> list[RuntimeEvent]:
        """The ends of one message's turns."""
        return [
            event
            for event in self.events
            if event.kind is EventKind.TURN_CLOSED and event.message_id == message_id
        ]

    async def turn(
        self, handle: Handle, message_id: str, text: str, mode: Mode = Mode.ADD
    ) -> RuntimeEvent:
        """Delivers a message and waits for the end of its turn."""
        before = len(self.closed(message_id))
        await handle.deliver(Message(message_id, text), mode)
        await wait_until(
            lambda: len(self.closed(message_id)) > before,
            what=f"the turn of {message_id} closes",
            limit_s=TURN_S,
        )
        return self.closed(message_id)[-1]

    def messages(self) -> list[tuple[str, str, str]]:
        """Every stored message: its id, its role, its texts; read from a copy."""
        with closing(sqlite3.connect(self.save_as(self.root / "peek.db"))) as copy:
            rows = copy.execute(
                "select m.id, m.data, group_concat(json_extract(p.data, '$.text'), '|')"
                " from message m left join part p on p.message_id = m.id"
                " and json_extract(p.data, '$.type') = 'text'"
                " group by m.id order by m.time_created, m.id"
            ).fetchall()
        return [(row[0], json.loads(row[1])["role"], row[2] or "") for row in rows]

    def save_as(self, target: Path) -> Path:
        """A consistent copy of the session, taken by SQLite in another process."""
        target.unlink(missing_ok=True)
        script = (
            "import sqlite3,sys;"
            "a=sqlite3.connect(f'file:{sys.argv[1]}?mode=ro',uri=True);"
            "b=sqlite3.connect(sys.argv[2]);a.backup(b);b.close()"
        )
        command = ["python3", "-c", script, str(self.database), str(target)]
        subprocess.run(command, check=True, timeout=20)
        return target

    def lose_everything(self, copy: Path) -> None:
        """The disk dies with its container; a new one is made from the saved copy."""
        for folder in (self.launch.home, self.launch.workdir, self.launch.tmpdir):
            shutil.rmtree(folder)
            folder.mkdir()
        make_empty_repository(self.launch.workdir)
        self.database.parent.mkdir(parents=True)
        shutil.copy(copy, self.database)
