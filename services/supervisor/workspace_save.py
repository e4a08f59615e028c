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
from services.supervisor.git import NOTHING_MORE, git, last_words, run_git
from services.supervisor.redaction import without_secrets
from services.supervisor.specs import AgentSpec, Role
from services.supervisor.workspace import INSTRUCTIONS, credentials_beside, origin_of
from services.supervisor.workspace_state import ask, cut_off, inner_work, own_head

log = structlog.get_logger()

# No branch and no tag: clones do not fetch it, and nobody's branch moves.
MARKED_REFS: Final = "refs/townkeeper/drained"
# For reading one workspace, and again for pushing it, of what a drain has left.
WORKSPACE_S: Final = 120.0
# For each try but the last, so that there is another when a server is silent.
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
# Git ends well all the same: of a repository inside the workspace it adds the commit
# and none of its files, and a folder that it cannot read is empty to it.
_MISSING: Final = (
    "adding embedded git repository",
    "could not open directory",
    "Permission denied",
)
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
        self._reads = asyncio.Semaphore(AT_ONCE)
        self._pushes = asyncio.Semaphore(AT_ONCE)

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
        if saved.outcome is SaveOutcome.FAILED:
            saved.ref = saved.commit = ""
        if saved.outcome is not SaveOutcome.PUSHED:
            troubles += [work.refused, _why(step)]
        text = "; ".join(filter(None, troubles))
        saved.error = without_secrets(text, workspace.spec)
        lost = saved.outcome in (SaveOutcome.KEPT, SaveOutcome.FAILED)
        (log.warning if lost else log.info)(
            "workspace.save_failed" if lost else "workspace.saved",
            agent=str(name),
            outcome=saved.outcome,
            ref=saved.ref,
            commit=saved.commit,
            error=saved.error,
        )
        return saved

    async def _save(self, work: _Work) -> None:
        async with self._reads:
            try:
                async with asyncio.timeout(WORKSPACE_S):
                    await work.commit()
            except (ServiceError, TimeoutError, OSError) as error:
                if not work.saved.commit:
                    raise
                work.trouble(_text(error))  # what was committed is not lost by it
        if work.saved.commit:
            async with self._pushes, asyncio.timeout(WORKSPACE_S):
                await work.push()


def _why(step: asyncio.Task[None]) -> str:
    """Why a step did not come to its end; empty if it did."""
    if step.cancelled():
        return _refusal("the time of the drain is over").message
    error = step.exception()
    return _text(error) if error is not None else ""


def _text(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return _refusal("git was not ready in time").message
    return str(error)


def _refusal(why: str) -> ServiceError:
    return ServiceError(Reason.START_FAILED, f"cannot {_TASK}: {why}")


class _Work:
    """One workspace on its way."""

    def __init__(self, workspace: Workspace, name: AgentName, run: str) -> None:
        self.saved = WorkspaceSave()
        self.refused = ""  # why the last push failed
        self._folder = workspace.folder
        self._spec = spec = workspace.spec
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
        # Not what the repository's configuration says: the agent can write that.
        self._origin = origin_of(spec)

    def trouble(self, text: str) -> None:
        """Something is missing, and the rest is saved all the same."""
        self.saved.error = "; ".join(filter(None, (self.saved.error, text)))

    async def commit(self) -> None:
        """Makes the commit and marks it here, so that it stays where a push fails."""
        if not (self._folder / ".git").exists():
            raise _refusal("it is no git repository any more")
        head = await own_head(self._folder)
        base = await ask(
            self._folder, "rev-parse", "--verify", "--quiet", f"{head}^{{tree}}"
        )
        if self._origin and await self._is_news(head):
            await self._mark(head)  # whatever becomes of the rest
        tip = await self._cut_off(head)
        tree = await self._write_tree(head, base)
        if tree != (base or EMPTY_TREE) or tip:
            on = [word for one in (head, tip) if one for word in ("-p", one)]
            made = ("commit-tree", *on, "-m", self._message, tree)
            await self._mark(await self._git(*made, environ=_AUTHOR))
        elif not self._origin and tree != EMPTY_TREE:
            await self._mark(head)
        elif not self.saved.commit and not self.saved.error:
            self.saved.outcome = SaveOutcome.UNCHANGED

    async def push(self) -> None:
        """Brings it to the origin; the mark here is not needed then."""
        if not self._origin:
            raise _refusal("it has no origin to push to; only its own disk has it")
        for failures in range(PUSH_TRIES):
            if failures:
                pause_s = PUSH_AGAIN_S * 2.0 ** (failures - 1)
                await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))
            last = failures == PUSH_TRIES - 1
            try:
                await self._push(WORKSPACE_S if last else PUSH_S)
            except ServiceError as error:
                self.refused = error.message
                continue
            self.saved.outcome = SaveOutcome.PUSHED
            with contextlib.suppress(ServiceError):
                await self._git("update-ref", "-d", self._ref)
            return

    async def _push(self, timeout_s: float) -> None:
        """From a repository of our own, with the objects of this one: its configuration
        could send them elsewhere."""
        objects = await self._git("rev-parse", "--git-path", "objects")
        shallow = await self._git("rev-parse", "--git-path", "shallow")
        credentials = credentials_beside(self._folder)
        with tempfile.TemporaryDirectory(prefix="townkeeper-") as name:
            place = Path(name)
            await git(place, "init", "--quiet", "--bare", "--template=", task=_TASK)
            if (self._folder / shallow).exists():
                shutil.copy(self._folder / shallow, place / "shallow")
            helper = f"credential.helper=store --file={credentials}"
            await git(
                place,
                *(*_OURS, "-c", helper, *_PUSH),
                *(self._origin, f"{self.saved.commit}:{self._ref}"),
                timeout_s=timeout_s,
                task=_TASK,
                environ={"GIT_OBJECT_DIRECTORY": str(self._folder / objects)},
                hide=self._hide,
            )

    async def _mark(self, commit: str) -> None:
        self.saved.ref, self.saved.commit = self._ref, commit  # can be pushed without
        await self._git("update-ref", self._ref, commit)
        self.saved.outcome = SaveOutcome.KEPT

    async def _is_news(self, commit: str, *known: str) -> bool:
        """Whether the origin has not got it, as far as is known here."""
        if not commit:
            return False
        own = ("rev-list", "--max-count=1", commit, "--not", *known)
        return bool(await self._git(*own, "--remotes=origin"))

    async def _cut_off(self, head: str) -> str:
        """Tells what it is in the middle of; gives the commits that HEAD would have at
        the end of it, where nobody else has them."""
        cut = await cut_off(self._folder)
        if cut is None:
            return ""
        why = f"it was cut off in the middle of {cut.what}"
        tip = cut.tip if await self._is_news(cut.tip, head) else ""
        if tip:
            why += f": its files are not those of {cut.branch} at {tip}"
        self.trouble(_refusal(why).message)
        return tip

    async def _write_tree(self, head: str, base: str) -> str:
        """A tree of all files that are not ignored. What cannot be read is left out,
        and told."""
        own = self._folder / await self._git("rev-parse", "--git-path", "index")
        with tempfile.TemporaryDirectory(prefix="townkeeper-") as place:
            index = Path(place) / "index"
            environ = {"GIT_INDEX_FILE": str(index)}
            scope = "--all"
            if own.exists():
                # It holds what is ignored and was added all the same. With its times:
                # by these git knows which files it must read again.
                await asyncio.to_thread(shutil.copy2, own, index)
            if not await self._is_index(index, environ):
                index.unlink(missing_ok=True)
                if base not in ("", EMPTY_TREE):
                    await self._git("read-tree", head, environ=environ)
                    # What is not on disk may never have been meant to be.
                    scope = "--ignore-removal"
                    why = "its index could not be read, so nothing counts as deleted"
                    self.trouble(_refusal(why).message)
            await self._add(scope, environ)
            for inner in await inner_work(self._folder, index):
                why = f"some of it is missing: {inner} has work of its own"
                self.trouble(_refusal(why).message)
            return await self._git("write-tree", environ=environ)

    async def _is_index(self, index: Path, environ: dict[str, str]) -> bool:
        reads = ("rev-parse", "--shared-index-path")  # the cheapest that does
        done = await run_git(self._folder, *_OURS, *reads, environ=environ)
        return index.exists() and done.code == 0

    async def _add(self, scope: str, environ: dict[str, str]) -> None:
        add = [*_OURS, "add", scope, "--ignore-errors", "--", "."]
        if self._instructed:
            add.append(f":(exclude){INSTRUCTIONS}")
        done = await run_git(self._folder, *add, timeout_s=WORKSPACE_S, environ=environ)
        said = last_words(done, self._hide)
        if done.code not in (0, 1):
            raise _refusal(f"git add: {said}")
        if done.code == 1 or any(words in done.stderr for words in _MISSING):
            self.trouble(_refusal(f"some of it is missing: {said}").message)

    def _hide(self, text: str) -> str:
        return without_secrets(text, self._spec)

    async def _git(
        self,
        *arguments: str,
        environ: Mapping[str, str] = NOTHING_MORE,
    ) -> str:
        return await git(
            self._folder,
            *_OURS,
            *arguments,
            task=_TASK,
            environ=environ,
            hide=self._hide,
        )
