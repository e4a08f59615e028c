"""The example agent of the exec runtime, as tests start it and look into it."""

from __future__ import annotations

import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.support.plane import PlaneProcess

PROGRAM = Path(__file__).parents[2] / "examples" / "notes.py"
DATABASE = "notes.db"


def command() -> list[str]:
    """What the agent's process is."""
    return [sys.executable, str(PROGRAM)]


def start(plane: PlaneProcess, agent: str) -> None:
    """Starts it by hand, as a mayor: the role that resumes."""
    options = f"--role mayor --lightweight --runtime exec --database {DATABASE}".split()
    plane.run("agents", "start", agent, *options, "--", *command())


def entry(agent: str, town: str) -> dict[str, Any]:
    """It as an entry of a worker's whole list."""
    request = {
        "agentId": agent,
        "rigId": "rig-1",
        "townId": town,
        "role": "polecat",
        "name": agent.title(),
        "identity": agent,
        "prompt": "",
        "model": "",
        "gitUrl": "",
        "branch": "",
        "defaultBranch": "",
        "lightweight": True,
        "runtime": "exec",
        "command": command(),
        "database": DATABASE,
    }
    return {"agentId": agent, "request": request, "workdir": "", "env": {"A": "ä"}}


def notes(plane: PlaneProcess, agent: str, file: Path) -> dict[str, str]:
    """What it has noted, by message id, in its newest saved state."""
    plane.run("agents", "save", agent)
    plane.run("snapshots", "export", agent, str(file), "--force")
    with closing(sqlite3.connect(f"file:{file}?immutable=1", uri=True)) as database:
        [[sound]] = database.execute("pragma integrity_check")
        assert "ok" == sound
        return dict(database.execute("select id, text from note"))
