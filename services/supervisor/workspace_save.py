"""Saves what an agent leaves in its workspace, when its disk is about to go.

It becomes a commit at a marked ref of the origin. The agent's branch, index and files
are only read: an index of our own is filled, and no hook of the workspace runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final, TypeAlias

import structlog

from services.chassis.errors import Reason, ServiceError
from services.chassis.names import AgentName
from services.supervisor.empty_repository import AUTHOR, EMAIL, EMPTY_TREE
from services.supervisor.git import LOCAL_S, NOTHING_MORE, git, last_words, run_git
from services.supervisor.redaction import without_secrets
from services.supervisor.specs import AgentSpec, Role
from services.supervisor.workspace import INSTRUCTIONS

log = structlog.get_logger()

# No branch and no tag: clones do not fetch it, and nobody's branch moves.
MARKED_REFS: Final = "refs/townkeeper/drained"
# For one workspace, of what a drain has left.
WORKSPACE_S: Final = 120.0
# For one try, so that there is a second when a server takes the first and is silent.
PUSH_S: Final = 45.0
PUSH_TRIES: Final = 4
# Doubled after each failure: under 7 s in all where a server refuses at once.
PUSH_AGAIN_S: Final = 1.0
# Each reads a whole worktree; the last sessions are saved beside them.
AT_ONCE: Final = 4

_TASK: Final = "save the workspace"
_OURS: Final = (
    *("-c", "core.hooksPath=/dev/null"),
    *("-c", "core.fsmonitor=false"),
    *("-c", "core.splitIndex=false"),
    *("-c", "advice.addEmbeddedRepo=false"),
)
# Git adds the commit of a repository inside the workspace, and none of its files.
_NESTED: Final = "adding embedded git repository"
_PUSH: Final = ("push", "--quiet", "--no-follow-tags", "--recurse-submodules=no")
_AUTHOR: Final = {
    "GIT_AUTHOR_NAME": AUTHOR,
    "GIT_AUTHOR_EMAIL": EMAIL,
    "GIT_COMMITTER_NAME": AUTHOR,
    "GIT_COMMITTER_EMAIL": EMAIL,
}


@dataclass(frozen=True, slots=True)
class Workspace:
    """Where an agent works, and the spec that it was prepared by."""

    folder: Path
    spec: AgentSpec


class SaveOutcome(StrEnum):
    """How far a save came."""

    UNCHANGED = "unchanged"
    PUSHED = "pushed"
    KEPT = "kept"  # on this disk only
    FAILED = "failed"


@dataclass(slots=True)
class WorkspaceSave:
    """What became of a workspace; filled in step by step, so the end of the time
    leaves what was reached."""

    outcome: SaveOutcome = SaveOutcome.FAILED
    ref: str = ""
    commit: str = ""
    error: str = ""


# Of this agent, in this run, until the event is set. Never raises.
SaveWorkspace: TypeAlias = Callable[
    [Workspace, AgentName, str, asyncio.Event], Awaitable[WorkspaceSave]
]


class WorkspaceSaver:
    """For all agents of an instance: a few at once, each on its own."""

    def __init__(self) -> None:
        self._turns = asyncio.Semaphore(AT_ONCE)

    async def save(
        self, workspace: Workspace, name: AgentName, run: str, spent: asyncio.Event
    ) -> WorkspaceSave:
        """Saves it if there is anything to save. Never raises, and ends soon after
        `spent` is set, with no git of it left."""
        work = _Work(workspace, name, run)
        step = asyncio.create_task(self._save(work), name=f"workspace of {name}")
        over = asyncio.create_task(spent.wait())
        try:
            await asyncio.wait({step, over}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            step.cancel()
            over.cancel()
        await asyncio.wait({step, over})
        saved, troubles = work.saved, [work.saved.error]
        if saved.outcome is not SaveOutcome.PUSHED:
            troubles += [work.refused, _why(step)]
        text = "; ".join(filter(None, troubles))
        saved.error = without_secrets(text, workspace.spec)
        log.info(
            "workspace.saved" if not saved.error else "workspace.save_failed",
            agent=str(name),
            outcome=saved.outcome,
            ref=saved.ref,
            commit=saved.commit,
            error=saved.error,
        )
        return saved

    async def _save(self, work: _Work) -> None:
        async with self._turns, asyncio.timeout(WORKSPACE_S):
            await work.commit()
            if work.saved.commit:
                await work.push()


def _why(step: asyncio.Task[None]) -> str:
    """Why a step did not come to its end; empty if it did."""
    if step.cancelled():
        return _refusal("the time of the drain is over").message
    error = step.exception()
    if isinstance(error, TimeoutError):
        return _refusal("git was not ready in time").message
    return str(error) if error is not None else ""


def _refusal(why: str) -> ServiceError:
    return ServiceError(Reason.START_FAILED, f"cannot {_TASK}: {why}")


class _Work:
    """One workspace on its way."""

    def __init__(self, workspace: Workspace, name: AgentName, run: str) -> None:
        self.saved = WorkspaceSave()
        self.refused = ""  # why the last push failed
        self._folder = workspace.folder
        spec = workspace.spec
        # Its instructions are written anew at each start.
        self._instructed = bool(spec.role is Role.MAYOR and spec.system_prompt)
        # Git takes no part that ends so, and the run makes it unique anyway.
        agent = f"{name.agent}-" if name.agent.endswith(".lock") else name.agent
        self._ref = f"{MARKED_REFS}/{agent}/{run}"
        self._message = (
            f"Workspace of {name} when its instance was emptied\n\n"
            f"Made by Townkeeper at the end of run {run}, with all files that were\n"
            "not ignored. The agent's own branch does not have it.\n"
        )
        self._origin = False

    async def commit(self) -> None:
        """Makes the commit and marks it here, so that it stays where a push fails."""
        if not (self._folder / ".git").exists():
            raise _refusal("it is no git repository any more")
        self._origin = bool(await self._ask("config", "--get", "remote.origin.url"))
        # Empty where the branch has no commit yet.
        head = await self._ask("rev-parse", "--verify", "--quiet", "HEAD^{commit}")
        base = await self._ask("rev-parse", "--verify", "--quiet", "HEAD^{tree}")
        tree = await self._write_tree()
        if not await self._has_changes(head, base, tree):
            if not self.saved.error:
                self.saved.outcome = SaveOutcome.UNCHANGED
            return
        commit = head
        if tree != base:
            on = ("-p", head) if head else ()
            commit = await self._git(
                *("commit-tree", *on, "-m", self._message, tree), environ=_AUTHOR
            )
        await self._git("update-ref", self._ref, commit)
        self.saved.ref, self.saved.commit = self._ref, commit
        self.saved.outcome = SaveOutcome.KEPT

    async def push(self) -> None:
        """Brings it to the origin; the mark here is not needed then."""
        if not self._origin:
            raise _refusal("it has no origin to push to; only its own disk has it")
        what = f"{self.saved.commit}:{self._ref}"
        for failures in range(PUSH_TRIES):
            if failures:
                pause_s = PUSH_AGAIN_S * 2.0 ** (failures - 1)
                await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))
            try:
                await self._git(*_PUSH, "origin", what, timeout_s=PUSH_S)
            except ServiceError as error:
                self.refused = error.message
                continue
            self.saved.outcome = SaveOutcome.PUSHED
            with contextlib.suppress(ServiceError):
                await self._git("update-ref", "-d", self._ref)
            return

    async def _has_changes(self, head: str, base: str, tree: str) -> bool:
        """Whether there is anything that no remote has."""
        if not self._origin or not head:
            return tree != EMPTY_TREE
        if tree != base:
            return True
        own = ("rev-list", "--max-count=1", head, "--not", "--remotes")
        return bool(await self._git(*own))

    async def _write_tree(self) -> str:
        """A tree of all files that are not ignored. What cannot be read is left out,
        and told."""
        own = self._folder / await self._git("rev-parse", "--git-path", "index")
        with tempfile.TemporaryDirectory(prefix="townkeeper-") as place:
            index = Path(place) / "index"
            environ = {"GIT_INDEX_FILE": str(index)}
            if own.exists():
                # It holds what is ignored and was added all the same. With its times:
                # by these git knows which files it must read again.
                await asyncio.to_thread(shutil.copy2, own, index)
            code, said = await self._add_all(environ)
            if code > 1 and own.exists():  # no index that git can read
                index.unlink(missing_ok=True)
                code, said = await self._add_all(environ)
            if code not in (0, 1):
                raise _refusal(f"git add: {said}")
            if code == 1 or _NESTED in said:
                self.saved.error = _refusal(f"some of it is missing: {said}").message
            return await self._git("write-tree", environ=environ)

    async def _add_all(self, environ: dict[str, str]) -> tuple[int, str]:
        add = [*_OURS, "add", "--all", "--ignore-errors", "--", "."]
        if self._instructed:
            add.append(f":(exclude){INSTRUCTIONS}")
        done = await run_git(self._folder, *add, environ=environ)
        return done.code, last_words(done)

    async def _ask(self, *arguments: str) -> str:
        """What git says; empty where it has no answer."""
        done = await run_git(self._folder, *_OURS, *arguments)
        return done.stdout.strip() if done.code == 0 else ""

    async def _git(
        self,
        *arguments: str,
        timeout_s: float = LOCAL_S,
        environ: Mapping[str, str] = NOTHING_MORE,
    ) -> str:
        return await git(
            self._folder,
            *_OURS,
            *arguments,
            timeout_s=timeout_s,
            task=_TASK,
            environ=environ,
        )
