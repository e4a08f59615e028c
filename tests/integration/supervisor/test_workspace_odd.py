"""Workspaces of a drain that are not as git left them: moved by another agent, cut off
in the middle, damaged, or told to send things elsewhere."""

from __future__ import annotations

import asyncio
import base64
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from services.supervisor import workspace_save
from services.supervisor.git import ERROR_LENGTH_MAX, credential_line
from services.supervisor.specs import AgentSpec, Role
from services.supervisor.workspace import credentials_beside, workspace_maker
from services.supervisor.workspace_save import (
    SaveOutcome,
    Workspace,
    WorkspaceSave,
    WorkspaceSaver,
)
from tests.support.workspaces import REF, RUN, TOAST, git, saved

pytestmark = pytest.mark.integration


def commit(folder: Path, name: str, text: str = "work") -> str:
    """A file of that name in a commit; gives its hash."""
    (folder / name).write_text(text)
    git(folder, "add", "--force", name)
    git(folder, "commit", "-q", "-m", name)
    return git(folder, "rev-parse", "HEAD")


def private(folder: Path) -> Path:
    return folder / git(folder, "rev-parse", "--git-dir")


@pytest.mark.parametrize("changed", [False, True], ids=["untouched", "changed"])
async def test_the_work_of_another_on_the_same_branch_is_not_reverted(
    workspace: Workspace, server: Path, changed: bool
) -> None:
    """Its commits moved the branch of both; the files here are as they were."""
    before = git(workspace.folder, "rev-parse", "HEAD")
    branch = git(workspace.folder, "symbolic-ref", "--short", "HEAD")
    other = workspace.folder.with_name("other")
    git(workspace.folder, "worktree", "add", "-q", "--force", str(other), branch)
    assert commit(other, "theirs") == git(workspace.folder, "rev-parse", "HEAD")
    if changed:
        (workspace.folder / "mine").write_text("mine")

    result = await saved(workspace)

    if changed:
        assert before == git(server, "rev-parse", f"{REF}^")
        assert "A\tmine" == git(server, "diff", "--name-status", before, REF)
    else:
        assert WorkspaceSave(SaveOutcome.UNCHANGED) == result


@pytest.mark.parametrize("limit_s", [120.0, 3.0], ids=["fails", "hangs"])
async def test_a_tree_that_cannot_be_made_does_not_cost_the_commits(
    workspace: Workspace,
    server: Path,
    limit_s: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They were finished; the error says that the rest is not there."""
    monkeypatch.setattr(workspace_save, "WORKSPACE_S", limit_s)
    head = commit(workspace.folder, "done")
    clean = "false" if limit_s > 60 else "tail -f /dev/null"
    git(workspace.folder, "config", "filter.bad.clean", clean)
    git(workspace.folder, "config", "filter.bad.required", "true")
    (workspace.folder / ".gitattributes").write_text("new filter=bad\n")
    (workspace.folder / "new").write_text("new")

    result = await saved(workspace)

    assert (SaveOutcome.PUSHED, head) == (result.outcome, result.commit)
    assert head == git(server, "rev-parse", REF)
    assert ("git add" if limit_s > 60 else "not ready in time") in result.error


@pytest.mark.parametrize("torn", [False, True], ids=["missing", "torn"])
async def test_without_an_index_nothing_of_the_branch_is_dropped(
    workspace: Workspace, server: Path, torn: bool
) -> None:
    """What is ignored and tracked all the same, what is not on disk, submodules."""
    folder = workspace.folder
    commit(folder, "forced.log")
    commit(folder, "away")
    link = f"160000,{git(folder, 'rev-parse', 'HEAD')},link"
    git(folder, "update-index", "--add", "--cacheinfo", link)
    git(folder, "commit", "-q", "-m", "link")
    git(folder, "push", "-q", "origin", "HEAD")
    (folder / "away").unlink()
    (folder / "new").write_text("new")
    index = private(folder) / "index"
    index.unlink()
    if torn:
        index.write_bytes(b"torn")

    result = await saved(workspace)

    assert "index could not be read" in result.error
    assert "A\tnew" == git(server, "diff", "--name-status", f"{REF}^", REF)


async def test_it_goes_to_the_origin_of_the_spec_only(
    workspace: Workspace, server: Path, tmp_path: Path
) -> None:
    """Whatever the agent wrote into the configuration that all its rig's share."""
    git(tmp_path, "init", "-q", "--bare", "elsewhere")
    elsewhere, url = f"file://{tmp_path}/elsewhere", workspace.spec.git_url
    for key, value in (
        ("remote.origin.url", elsewhere),
        ("remote.origin.pushurl", elsewhere),
        (f"url.{elsewhere}.insteadOf", url),
        (f"url.{elsewhere}.pushInsteadOf", url),
        ("remote.origin.receivepack", "false"),
        ("remote.origin.mirror", "true"),
        ("push.gpgSign", "true"),
        ("push.pushOption", "ci.skip"),
        ("core.sshCommand", "false"),
    ):
        git(workspace.folder, "config", key, value)
    (workspace.folder / "new").write_text("new")

    result = await saved(workspace)

    assert (SaveOutcome.PUSHED, "") == (result.outcome, result.error)
    assert "new" == git(server, "show", f"{REF}:new")
    assert "" == git(tmp_path / "elsewhere", "for-each-ref")


async def test_a_push_shows_the_credential_of_the_spec(workspace: Workspace) -> None:
    """The one that the clone was made with, and no helper that the agent named."""
    shown: list[str] = []

    async def refuse(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        asked = (await reader.readuntil(b"\r\n\r\n")).decode()
        shown.extend(
            line.split()[-1]
            for line in asked.splitlines()
            if line.startswith("Authorization: Basic")
        )
        writer.write(
            b"HTTP/1.1 401 No\r\nWWW-Authenticate: Basic realm=x\r\n"
            b"Content-Length: 0\r\nConnection: close\r\n\r\n"
        )
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/r.git"
    login = credential_line(url, "me:s3cretvalue")
    credentials_beside(workspace.folder).write_text(login)
    git(workspace.folder, "config", "credential.helper", "!echo password=theirs #")
    (workspace.folder / "new").write_text("new")

    result = await saved(
        Workspace(workspace.folder, replace(workspace.spec, git_url=url))
    )

    server.close()
    assert SaveOutcome.KEPT is result.outcome
    assert base64.b64encode(b"me:s3cretvalue").decode() == shown[0]


async def test_a_mark_that_cannot_be_made_here_does_not_cost_the_push(
    workspace: Workspace, server: Path
) -> None:
    """The disk is full, or somebody has the name."""
    common = workspace.folder / git(workspace.folder, "rev-parse", "--git-common-dir")
    (common / "refs" / "townkeeper").write_text("")
    head = commit(workspace.folder, "done")

    result = await saved(workspace)

    assert (SaveOutcome.PUSHED, head) == (result.outcome, result.commit)
    assert "update-ref" in result.error


async def test_a_shallow_clone_can_be_pushed_from(
    workspace: Workspace, server: Path, tmp_path: Path
) -> None:
    """It lacks what came before, and the origin has gone on."""
    commit(workspace.folder, "done")
    git(workspace.folder, "push", "-q", "origin", "HEAD:main")
    folder = tmp_path / "a" / "b" / "c"
    git(tmp_path, "clone", "-q", "--depth=1", f"file://{server}", str(folder))
    commit(folder, "more")
    commit(workspace.folder, "beyond")
    git(workspace.folder, "push", "-q", "origin", "HEAD:main")

    result = await saved(Workspace(folder, workspace.spec))

    assert (SaveOutcome.PUSHED, "") == (result.outcome, result.error)


async def test_an_origin_that_no_spec_names_gets_nothing(
    server: Path, tmp_path: Path
) -> None:
    """An agent without a repository may add one of its own."""
    spec = AgentSpec(rig="r", role=Role.MAYOR, git_url=f"file://{server}")
    folder = await workspace_maker(tmp_path / "workspaces")(TOAST, spec)
    git(folder, "remote", "add", "origin", str(server))
    (folder / "note").write_text("note")

    result = await saved(Workspace(folder, spec))

    assert SaveOutcome.KEPT is result.outcome
    assert "refs/heads/main" == git(server, "for-each-ref", "--format=%(refname)")


@pytest.mark.parametrize("work", ["none", "file", "commit"])
async def test_work_in_a_submodule_is_told(
    workspace: Workspace, server: Path, work: str
) -> None:
    """Git saves at most its commit's hash, and only the disk has the rest."""
    folder = workspace.folder
    allow = ("-c", "protocol.file.allow=always")
    git(folder, *allow, "submodule", "--quiet", "add", f"file://{server}", "sub")
    git(folder, "config", "submodule.sub.ignore", "all")
    if work == "commit":
        commit(folder / "sub", "inner")
    git(folder, "add", "--all")
    git(folder, "commit", "-q", "-m", "sub")
    git(folder, "push", "-q", "origin", "HEAD")
    if work == "file":
        (folder / "sub" / "file").write_text("changed")

    result = await saved(workspace)

    if work == "none":
        assert WorkspaceSave(SaveOutcome.UNCHANGED) == result
    else:
        assert SaveOutcome.FAILED is result.outcome
        assert "sub has work of its own" in result.error


async def test_what_is_missing_is_told_however_much_git_says_after_it(
    workspace: Workspace, server: Path
) -> None:
    """Only what is shown is cut."""
    for number in range(10):
        inner = workspace.folder / f"{number}{'x' * 60}"
        inner.mkdir()
        git(inner, "init", "-q")
        git(inner, "commit", "-q", "--allow-empty", "-m", "x")
    # A warning for each file, all after those above.
    git(workspace.folder, "config", "core.autocrlf", "input")
    for number in range(20):
        (workspace.folder / f"z{number}").write_bytes(b"a\r\n")

    result = await saved(workspace)

    assert SaveOutcome.PUSHED is result.outcome
    assert "some of it is missing: " in result.error
    assert "replaced by LF" in result.error
    assert "embedded" not in result.error


@pytest.mark.parametrize("words", ["could not open directory", "Permission denied"])
async def test_what_git_could_not_read_is_told(
    workspace: Workspace, server: Path, words: str
) -> None:
    """Git warns, and ends well. Root reads everything, so a filter says it here."""
    clean = f"echo warning: {words}: {'x' * ERROR_LENGTH_MAX} >&2; cat"
    git(workspace.folder, "config", "filter.bad.clean", clean)
    (workspace.folder / ".gitattributes").write_text("new filter=bad\n")
    (workspace.folder / "new").write_text("new")

    result = await saved(workspace)

    assert SaveOutcome.PUSHED is result.outcome
    assert "some of it is missing: xxx" in result.error


async def test_half_a_secret_is_not_shown_either(
    workspace: Workspace, server: Path
) -> None:
    """What git says is cut; a secret that stands at the cut is taken out before."""
    secret = "s3cret" + "0123456789" * 10
    spec = replace(workspace.spec, env_vars={"KEY": secret})
    tail = "y" * (ERROR_LENGTH_MAX - 80)
    clean = f"echo {secret}{tail} >&2; false"
    git(workspace.folder, "config", "filter.bad.clean", clean)
    git(workspace.folder, "config", "filter.bad.required", "true")
    (workspace.folder / ".gitattributes").write_text("new filter=bad\n")
    (workspace.folder / "new").write_text("new")

    result = await saved(Workspace(workspace.folder, spec))

    assert "yyy" in result.error
    assert "0123456789" not in result.error
    assert "6789y" not in result.error


async def test_a_commit_that_only_another_remote_has_is_saved(
    workspace: Workspace, server: Path, tmp_path: Path
) -> None:
    """That one may be a folder on the same disk."""
    git(tmp_path, "init", "-q", "--bare", "near")
    head = commit(workspace.folder, "done")
    git(workspace.folder, "remote", "add", "near", str(tmp_path / "near"))
    git(workspace.folder, "push", "-q", "near", "HEAD")

    assert WorkspaceSave(SaveOutcome.PUSHED, REF, head) == await saved(workspace)


async def test_a_rebase_that_was_cut_off_loses_no_commit(
    workspace: Workspace, server: Path
) -> None:
    """HEAD has only those that were done again; the branch's old tip is kept too."""
    folder = workspace.folder
    start = git(folder, "rev-parse", "HEAD")
    tip = commit(folder, "file", "mine")
    git(folder, "checkout", "-q", "--detach", start)
    onto = commit(folder, "file", "theirs")
    git(folder, "checkout", "-q", "-")
    with pytest.raises(Exception, match="rebase"):
        git(folder, "rebase", onto)

    result = await saved(workspace)

    assert SaveOutcome.PUSHED is result.outcome
    assert "in the middle of a rebase" in result.error
    assert tip in result.error
    assert [onto, tip] == git(server, "log", "-1", "--format=%P", REF).split()


async def test_a_merge_that_was_cut_off_is_told(
    workspace: Workspace, server: Path
) -> None:
    """The files hold both sides, the commit knows one."""
    folder = workspace.folder
    start = git(folder, "rev-parse", "HEAD")
    theirs = commit(folder, "file", "theirs")
    git(folder, "reset", "-q", "--hard", start)
    commit(folder, "mine")
    git(folder, "merge", "-q", "--no-commit", theirs)

    result = await saved(workspace)

    assert SaveOutcome.PUSHED is result.outcome
    assert "in the middle of a merge" in result.error


@pytest.mark.parametrize(
    ("refused", "level"), [(False, "info"), (True, "warning")], ids=["well", "kept"]
)
async def test_what_only_the_disk_has_is_logged_as_a_warning(
    workspace: Workspace, server: Path, refused: bool, level: str
) -> None:
    """Somebody may still fetch it from there."""
    if refused:
        (server / "hooks" / "pre-receive").write_text("#!/bin/sh\nexit 1\n")
        (server / "hooks" / "pre-receive").chmod(0o755)
    (workspace.folder / "new").write_text("new")

    with capture_logs() as lines:
        await WorkspaceSaver().save(workspace, TOAST, RUN, asyncio.Event())

    assert [level] == [
        line["log_level"] for line in lines if line["event"].startswith("workspace.sav")
    ]
