"""What several modules about workspaces stand on."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.supervisor import workspace_save
from services.supervisor.specs import AgentSpec, Role
from services.supervisor.workspace import workspace_maker
from services.supervisor.workspace_save import Workspace
from tests.support.workspaces import TOAST, make_server


@pytest.fixture
def server(tmp_path: Path) -> Path:
    return make_server(tmp_path)


@pytest.fixture
def spec(server: Path) -> AgentSpec:
    return AgentSpec(
        rig="r",
        role=Role.POLECAT,
        runtime="exec",
        command=("x",),
        git_url=f"file://{server}",
        branch="gt/toast/new",
        default_branch="main",
        env_vars={"GIT_TOKEN": "s3cretvalue"},
    )


@pytest.fixture
async def workspace(
    tmp_path: Path, spec: AgentSpec, monkeypatch: pytest.MonkeyPatch
) -> Workspace:
    """Just prepared. The pauses between the tries of a push are not tried here."""
    monkeypatch.setattr(workspace_save, "PUSH_AGAIN_S", 0.01)
    prepare = workspace_maker(tmp_path / "workspaces")
    return Workspace(await prepare(TOAST, spec), spec)
