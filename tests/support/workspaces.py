"""Real workspaces of one agent, on a real origin."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path
from typing import Final

from services.chassis.names import AgentName
from services.supervisor.workspace_save import Workspace, WorkspaceSave, WorkspaceSaver

TOAST: Final = AgentName("t", "toast")
RUN: Final = "4f2a90"
REF: Final = f"refs/townkeeper/drained/toast/{RUN}"


def git(folder: Path, *arguments: str) -> str:
    """Runs git as the agent would, and gives what it printed."""
    who = ("-c", "user.name=Test", "-c", "user.email=test@localhost")
    done = subprocess.run(
        ["git", *who, *arguments], cwd=folder, check=True, capture_output=True
    )
    return done.stdout.decode().strip()


def make_server(place: Path) -> Path:
    """A bare repository with one commit on its main branch."""
    server, first = place / "server", place / "first"
    server.mkdir()
    git(server, "init", "-q", "--bare", "-b", "main")
    git(place, "clone", "-q", str(server), str(first))
    (first / "file").write_text("one")
    (first / ".gitignore").write_text("*.log\n")
    git(first, "checkout", "-q", "-B", "main")
    git(first, "add", ".")
    git(first, "commit", "-q", "-m", "first")
    git(first, "push", "-q", "origin", "main")
    return server


async def saved(
    workspace: Workspace, spent: asyncio.Event | None = None
) -> WorkspaceSave:
    """What becomes of a workspace, of itself in time enough."""
    spent = spent or asyncio.Event()
    return await WorkspaceSaver().save(workspace, TOAST, RUN, spent)
