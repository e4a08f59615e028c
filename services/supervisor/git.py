"""Git, run without a person: no prompts, no configuration but ours, always in time."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

from services.chassis.errors import Reason, ServiceError
from services.supervisor import spawn

LOCAL_S = 60.0
NETWORK_S = 300.0
ERROR_LENGTH_MAX = 400
# `ext::` and its like would run a command of the caller's choice.
PROTOCOLS = "file:git:http:https:ssh"

NOTHING_MORE: Mapping[str, str] = {}

_REVISION = re.compile(r"(?!-)[A-Za-z0-9_./+@=-]{1,244}")


def plain_url(url: str) -> tuple[str, str]:
    """The URL without name and password, and these (`name:password`, or empty)."""
    if url.startswith("-") or "::" in url or not url.isprintable():
        raise ServiceError(
            Reason.FIELD_INVALID,
            f"cannot clone {url[:100]!r}: give an https, ssh or file address",
            field="git_url",
        )
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or "@" not in parts.netloc:
        return url, ""
    login, _, host = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=host)), login


def credential_line(url: str, login: str) -> str:
    """One line of a credential store, for everything at the URL's host."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{login}@{parts.netloc}\n"


def token_login(url: str, token: str) -> str:
    """How hosts want a bare token: GitLab by the name oauth2, others by any name."""
    name = "oauth2" if "gitlab" in (urlsplit(url).hostname or "") else "x-access-token"
    return f"{name}:{quote(token, safe='')}"


def check_revision(revision: str, field: str) -> str:
    """A branch, tag or commit that git cannot take for an option or a path."""
    parts = revision.split("/")
    odd = any(part in ("", ".", "..") or part.endswith(".lock") for part in parts)
    if odd or ".." in revision or not _REVISION.fullmatch(revision):
        raise ServiceError(
            Reason.FIELD_INVALID,
            f"cannot use {field} {revision[:100]!r}: it is no name of a git branch",
            field=field,
        )
    return revision


async def git(
    folder: Path,
    *arguments: str,
    timeout_s: float = LOCAL_S,
    task: str = "prepare the workspace",
    environ: Mapping[str, str] = NOTHING_MORE,
    hide: Callable[[str], str] = str,
) -> str:
    """Runs git in a folder and gives its output; START_FAILED with its last words,
    without what `hide` takes out of them."""
    what = next((a for a in arguments if not a.startswith("-") and "=" not in a), "git")
    try:
        done = await run_git(folder, *arguments, timeout_s=timeout_s, environ=environ)
    except TimeoutError as error:
        raise ServiceError(
            Reason.START_FAILED,
            f"cannot {task}: git {what} took over {timeout_s:g} s; "
            "check that its server answers",
        ) from error
    if done.code != 0:
        text = f"cannot {task}: git {what}: {last_words(done, hide)}"
        raise ServiceError(Reason.START_FAILED, text)
    return done.stdout.strip()


def last_words(done: spawn.Finished, hide: Callable[[str], str] = str) -> str:
    """What git said last of what was wrong. Hidden first: of half a secret nothing is
    found."""
    return hide(done.stderr).strip()[-ERROR_LENGTH_MAX:]


async def git_says(folder: Path, *arguments: str) -> bool:
    """Whether a question to git has the answer yes (exit code 0)."""
    try:
        return (await run_git(folder, *arguments)).code == 0
    except TimeoutError:
        return False


async def run_git(
    folder: Path,
    *arguments: str,
    timeout_s: float = LOCAL_S,
    environ: Mapping[str, str] = NOTHING_MORE,
    output_max: int = 1 << 20,
) -> spawn.Finished:
    """Runs git to its end, whatever that is. Raises TimeoutError when git and all that
    it started are killed."""
    environ = {
        "HOME": os.devnull,
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ALLOW_PROTOCOL": PROTOCOLS,
        "GIT_SSH_COMMAND": "ssh -oBatchMode=yes -oStrictHostKeyChecking=accept-new",
        "GCM_INTERACTIVE": "never",
        "LC_ALL": "C.UTF-8",
        # The folder's own repository or none: never one that it lies in.
        "GIT_CEILING_DIRECTORIES": str(folder.parent),
        **environ,
    }
    command = spawn.Command(("git", *arguments), folder, environ)
    return await spawn.run(command, timeout_s, output_max)
