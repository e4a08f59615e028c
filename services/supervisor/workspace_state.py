"""What git says of a workspace beyond its files: where it was last, what it was in the
middle of, and which repositories inside it hold work that no commit of it can hold."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from services.supervisor.git import run_git

# Status would write the index that it has refreshed.
_READ_ONLY: Final = {"GIT_OPTIONAL_LOCKS": "0"}
_QUIET: Final = ("-c", "core.fsmonitor=false")
# The index of a large repository, as text.
_INDEX_MAX: Final = 1 << 26
_GITLINK: Final = "160000 "


@dataclass(frozen=True, slots=True)
class CutOff:
    """Something that takes several commands, and was not brought to its end."""

    what: str
    branch: str = ""  # whose old tip HEAD does not have; only of a rebase
    tip: str = ""


async def ask(folder: Path, *arguments: str) -> str:
    """What git says; empty where it has no answer."""
    done = await run_git(folder, *_QUIET, *arguments, environ=_READ_ONLY)
    return done.stdout.strip() if done.code == 0 else ""


async def own_head(folder: Path) -> str:
    """The commit that this worktree is at. Another worktree may have moved the branch
    of both; that is in the log of its HEAD, not in ours. Empty: no commit yet."""
    head = await ask(folder, "rev-parse", "--verify", "--quiet", "HEAD^{commit}")
    branch = await ask(folder, "symbolic-ref", "--quiet", "HEAD")
    listed = await ask(folder, "worktree", "list", "--porcelain")
    if not head or not branch or listed.splitlines().count(f"branch {branch}") < 2:
        return head
    last = await ask(folder, "log", "--walk-reflogs", "-1", "--format=%H", "HEAD")
    return last or head


async def cut_off(folder: Path) -> CutOff | None:
    """What it is in the middle of."""
    private = Path(await ask(folder, "rev-parse", "--absolute-git-dir"))
    return await asyncio.to_thread(_cut_off, private)


def _cut_off(private: Path) -> CutOff | None:
    for name in ("rebase-merge", "rebase-apply"):
        if (private / name).is_dir():
            branch = _line(private / name / "head-name")
            return CutOff("a rebase", branch, _line(private / name / "orig-head"))
    for name, what in (("MERGE_HEAD", "a merge"), ("CHERRY_PICK_HEAD", "a pick")):
        if (private / name).exists():
            return CutOff(what)
    return None


def _line(file: Path) -> str:
    try:
        return file.read_text(errors="replace").strip()
    except OSError:
        return ""


async def inner_work(folder: Path, index: Path) -> list[str]:
    """Repositories inside it, as the index names them, that hold changes or commits
    which are at no remote of theirs."""
    listed = await run_git(
        *(folder, "ls-files", "--stage", "-z"),
        environ={"GIT_INDEX_FILE": str(index)},
        output_max=_INDEX_MAX,
    )
    links = (e for e in listed.stdout.split("\0") if e.startswith(_GITLINK))
    found = []
    for name in (link.partition("\t")[2] for link in links):
        inner = folder / name
        if (inner / ".git").exists() and await _has_work(inner):
            found.append(name)
    return found


async def _has_work(folder: Path) -> bool:
    questions = (
        ("status", "--porcelain", "--ignore-submodules=none"),
        ("rev-list", "--max-count=1", "HEAD", "--not", "--remotes"),
    )
    for question in questions:
        try:
            done = await run_git(folder, *_QUIET, *question, environ=_READ_ONLY)
        except TimeoutError:
            return True  # nobody knows, and the rest can be saved
        if done.code != 0 or done.stdout.strip():
            return True
    return False
