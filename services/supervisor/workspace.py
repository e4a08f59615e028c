"""The folder an agent works in, made before it starts and found again at each start.

The path depends on names only, so a restored session finds its project where it was.
What an agent has left there is kept: nothing here resets or cleans a worktree.
"""

from __future__ import annotations

import asyncio
import os
from collections import defaultdict
from collections.abc import Awaitable, Callable
from pathlib import Path

import structlog

from services.chassis.errors import Reason, ServiceError
from services.chassis.names import AgentName
from services.supervisor.empty_repository import make_empty_repository
from services.supervisor.git import (
    NETWORK_S,
    check_revision,
    credential_line,
    git,
    git_says,
    plain_url,
    token_login,
)
from services.supervisor.paths import beneath
from services.supervisor.specs import AgentSpec, Role

INSTRUCTIONS = "AGENTS.md"  # the runtimes read it with every turn
GIT_TOKENS = ("GIT_TOKEN", "GITHUB_TOKEN", "GITHUB_CLI_PAT", "GITLAB_TOKEN")
ALL_BRANCHES = "+refs/heads/*:refs/remotes/origin/*"

log = structlog.get_logger()

PrepareWorkspace = Callable[[AgentName, AgentSpec], Awaitable[Path]]


def origin_of(spec: AgentSpec) -> str:
    """The URL that a workspace is a clone of, without login; empty if it is none."""
    if spec.lightweight or spec.role is Role.MAYOR or not spec.git_url:
        return ""
    return plain_url(spec.git_url)[0]


def credentials_beside(worktree: Path) -> Path:
    """Where the credential for a worktree's origin is, if there is one."""
    return worktree.parents[2] / "credentials"


def workspace_maker(root: Path) -> PrepareWorkspace:
    """The one that keeps all workspaces below `root`."""
    return _Workspaces(root).prepare


class _Workspaces:
    """`agents/AGENT` for those without a repository of their own; else one clone for a
    rig (`rigs/RIG/repo.git`) and a worktree for each agent and branch."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def prepare(self, name: AgentName, spec: AgentSpec) -> Path:
        """Makes the workspace, or finds it; raises START_FAILED or FIELD_INVALID."""
        if not origin_of(spec):
            return await asyncio.to_thread(self._empty, name, spec)
        branch = check_revision(spec.branch or spec.default_branch or "main", "branch")
        async with self._locks[spec.rig]:
            repository = await self._repository(spec)
            return await self._worktree(repository, name, spec, branch)

    def _empty(self, name: AgentName, spec: AgentSpec) -> Path:
        folder = beneath(self._root, f"agents/{name.agent}", "workdir")
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        make_empty_repository(folder)
        if spec.role is Role.MAYOR and spec.system_prompt:
            _write_private(folder / INSTRUCTIONS, spec.system_prompt)
        return folder

    def _credential(self, spec: AgentSpec) -> tuple[str, Path | None]:
        """The plain URL, and the file with its credential, which no worktree holds."""
        url, login = plain_url(spec.git_url)
        token = next((spec.env_vars[t] for t in GIT_TOKENS if spec.env_vars.get(t)), "")
        if not url.startswith(("https://", "http://")) or not (login or token):
            return url, None
        file = beneath(self._root, f"rigs/{spec.rig}/credentials", "workdir")
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write_private(file, credential_line(url, login or token_login(url, token)))
        return url, file

    async def _repository(self, spec: AgentSpec) -> Path:
        """The rig's clone with all branches of its origin, as new as can be had."""
        url, credential = await asyncio.to_thread(self._credential, spec)
        folder = beneath(self._root, f"rigs/{spec.rig}/repo.git", "workdir")
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not (folder / "HEAD").exists():
            await git(folder, "init", "--quiet", "--bare", ".")
        await git(folder, "config", "remote.origin.url", url)
        await git(folder, "config", "remote.origin.fetch", ALL_BRANCHES)
        if credential:
            helper = f"store --file={credential}"
            await git(folder, "config", "credential.helper", helper)
        fetch = ("fetch", "--quiet", "--prune", "--tags", "origin")
        try:
            await git(folder, *fetch, timeout_s=NETWORK_S)
        except ServiceError as error:
            if not await git_says(folder, "show-ref", "--quiet"):
                raise  # the first time: there is nothing to work with
            log.warning("workspace.fetch_failed", rig=spec.rig, error=error.message)
        return folder

    async def _worktree(
        self, repository: Path, name: AgentName, spec: AgentSpec, branch: str
    ) -> Path:
        # No branch name holds a tilde, so two branches never share a folder.
        below = f"rigs/{spec.rig}/worktrees/{name.agent}/{branch.replace('/', '~')}"
        folder = beneath(self._root, below, "workdir")
        if (folder / ".git").exists() and await git_says(folder, "rev-parse"):
            return folder
        await asyncio.to_thread(_set_aside, folder)
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        await git(repository, "worktree", "prune")
        add = ("worktree", "add", "--quiet", "--force")
        if await _is_known(repository, f"refs/heads/{branch}"):
            await git(repository, *add, str(folder), branch)
            return folder
        start = await self._start_point(repository, spec, branch)
        new = ("--no-track", "-B", branch)  # a bare push must not reach another branch
        await git(repository, *add, *new, str(folder), start)
        return folder

    async def _start_point(self, repository: Path, spec: AgentSpec, branch: str) -> str:
        """Where a new branch begins: at its own pushed state when there is one."""
        wanted = [f"refs/remotes/origin/{branch}"]
        if spec.start_point:
            start = check_revision(spec.start_point, "start_point")
            wanted += [f"refs/remotes/origin/{start}", start]
        else:
            default = check_revision(spec.default_branch or "main", "default_branch")
            wanted += [f"refs/remotes/origin/{default}"]
        for revision in wanted:
            if await _is_known(repository, revision):
                return revision
        raise ServiceError(
            Reason.START_FAILED,
            f"cannot prepare the workspace: {plain_url(spec.git_url)[0]} has none of "
            f"{', '.join(w.removeprefix('refs/remotes/origin/') for w in wanted)}; "
            "push one of them or name another branch",
        )


async def _is_known(repository: Path, revision: str) -> bool:
    found = f"{revision}^{{commit}}"
    return await git_says(repository, "rev-parse", "--verify", "--quiet", found)


def _set_aside(folder: Path) -> None:
    """Moves away what is no worktree any more; it may hold somebody's work."""
    if not folder.exists():
        return
    number = 1
    while (aside := folder.with_name(f"{folder.name}~aside~{number}")).exists():
        number += 1
    folder.rename(aside)


def _write_private(path: Path, text: str) -> None:
    """Replaces a file, whatever it is now; a link is replaced, not followed."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.unlink(missing_ok=True)
    with open(fresh, "x", opener=lambda p, flags: os.open(p, flags, 0o600)) as file:
        file.write(text)
    os.replace(fresh, path)
