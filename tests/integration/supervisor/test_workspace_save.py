"""Workspaces of a drain, with real git: what is worth saving is at a marked ref of the
origin, and what is the agent's own is as it was."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from services.chassis.names import AgentName
from services.supervisor import workspace_save
from services.supervisor.specs import AgentSpec, Role
from services.supervisor.workspace import workspace_maker
from services.supervisor.workspace_save import (
    SaveOutcome,
    Workspace,
    WorkspaceSave,
    WorkspaceSaver,
)
from tests.support.workspaces import REF, RUN, TOAST, git, saved

pytestmark = pytest.mark.integration

MAYOR = AgentSpec(rig="r", role=Role.MAYOR, system_prompt="Be kind.")


def refs(repository: Path) -> list[str]:
    """All that somebody may have made there."""
    return [line.split()[0] for line in marks(repository)]


def marks(repository: Path) -> list[str]:
    """The same, with what each names."""
    form = "--format=%(refname) %(objectname)"
    return git(repository, "for-each-ref", form).splitlines()


def change(folder: Path) -> None:
    """A change, a staged one, a new file, an ignored one, one that is gone."""
    (folder / "file").write_text("mine")
    (folder / "staged").write_text("staged")
    (folder / "forced.log").write_text("forced")
    git(folder, "add", "staged")
    git(folder, "add", "--force", "forced.log")
    (folder / "deep").mkdir()
    (folder / "deep" / "new").write_text("new")
    (folder / "noise.log").write_text("noise")
    (folder / ".gitignore").rename(folder / "ignored")
    git(folder, "config", "core.excludesFile", str(folder / "ignored"))


def look(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Each file of the worktree and of its part of the repository, byte for byte."""
    private = folder / git(folder, "rev-parse", "--git-dir")
    return {
        str(path): (path.read_bytes(), path.stat().st_mtime_ns)
        for place in (folder, private)
        for path in sorted(place.rglob("*"))
        if path.is_file()
    }


async def test_nothing_is_made_of_a_workspace_without_changes(
    workspace: Workspace, server: Path
) -> None:
    """What is ignored is none."""
    (workspace.folder / "noise.log").write_text("noise")

    assert WorkspaceSave(SaveOutcome.UNCHANGED) == await saved(workspace)

    assert ["refs/heads/main"] == refs(server)
    assert REF not in refs(workspace.folder)


async def test_a_pushed_commit_is_no_change(workspace: Workspace, server: Path) -> None:
    """The origin has it already."""
    git(workspace.folder, "commit", "-q", "--allow-empty", "-m", "work")
    git(workspace.folder, "push", "-q", "origin", "HEAD")

    assert WorkspaceSave(SaveOutcome.UNCHANGED) == await saved(workspace)


async def test_changes_and_new_files_are_saved_on_top_of_the_branch(
    workspace: Workspace, server: Path
) -> None:
    """All that is not ignored, and what was added although it is."""
    change(workspace.folder)
    head = git(workspace.folder, "rev-parse", "HEAD")

    result = await saved(workspace)

    assert (SaveOutcome.PUSHED, REF, "") == (result.outcome, result.ref, result.error)
    assert result.commit == git(server, "rev-parse", REF)
    assert head == git(server, "rev-parse", f"{REF}^")
    files = git(server, "ls-tree", "-r", "--name-only", REF).splitlines()
    assert ["deep/new", "file", "forced.log", "ignored", "staged"] == files
    assert "mine" == git(server, "show", f"{REF}:file")
    author = git(server, "log", "-1", "--format=%an %ae %cn", REF)
    assert "Townkeeper townkeeper@townkeeper.local Townkeeper" == author


async def test_what_is_the_agents_own_is_not_touched(
    workspace: Workspace, server: Path
) -> None:
    """Branch, index and files, byte for byte; and no branch of the origin."""
    change(workspace.folder)
    before, known = look(workspace.folder), marks(workspace.folder)
    main = git(server, "rev-parse", "main")
    log = git(workspace.folder, "log", "--format=%H")

    result = await saved(workspace)

    assert SaveOutcome.PUSHED is result.outcome
    assert before == look(workspace.folder)
    assert known == marks(workspace.folder)
    assert log == git(workspace.folder, "log", "--format=%H")
    assert [f"refs/heads/main {main}", f"{REF} {result.commit}"] == marks(server)


async def test_commits_that_no_remote_has_are_saved_as_they_are(
    workspace: Workspace, server: Path
) -> None:
    """Without a commit of ours, which would be empty."""
    (workspace.folder / "file").write_text("two")
    git(workspace.folder, "commit", "-q", "-a", "-m", "work")
    head = git(workspace.folder, "rev-parse", "HEAD")

    result = await saved(workspace)

    assert WorkspaceSave(SaveOutcome.PUSHED, REF, head) == result
    assert head == git(server, "rev-parse", REF)


async def test_hooks_of_the_workspace_have_no_say(
    workspace: Workspace, server: Path
) -> None:
    """They run tests, ask people, or never end."""
    hooks = workspace.folder / git(workspace.folder, "rev-parse", "--git-common-dir")
    for name in ("pre-push", "reference-transaction"):
        hook = hooks / "hooks" / name
        hook.parent.mkdir(exist_ok=True)
        hook.write_text("#!/bin/sh\nexit 1\n")
        hook.chmod(0o755)
    (workspace.folder / "new").write_text("new")

    assert SaveOutcome.PUSHED is (await saved(workspace)).outcome


@pytest.mark.parametrize("commits", [False, True], ids=["refused", "a commit only"])
async def test_what_git_does_not_take_costs_only_itself(
    workspace: Workspace, server: Path, commits: bool
) -> None:
    """A repository inside: of it git takes nothing, or its newest commit without a
    file. The receipt says so."""
    (workspace.folder / "new").write_text("new")
    git(workspace.folder, "init", "-q", "inner")
    if commits:
        git(workspace.folder / "inner", "commit", "-q", "--allow-empty", "-m", "x")

    result = await saved(workspace)

    assert SaveOutcome.PUSHED is result.outcome
    assert "new" == git(server, "show", f"{REF}:new")
    assert "some of it is missing" in result.error
    assert "inner" in result.error


async def test_a_branch_without_a_commit_is_saved_too(
    workspace: Workspace, server: Path
) -> None:
    """The agent began it and had not come to a commit."""
    git(workspace.folder, "checkout", "-q", "--orphan", "begun")

    result = await saved(workspace)

    assert (SaveOutcome.PUSHED, "") == (result.outcome, result.error)
    assert result.commit == git(server, "rev-list", REF)


async def test_an_agent_whose_name_is_no_part_of_a_ref(
    workspace: Workspace, server: Path
) -> None:
    """Git keeps `.lock` for itself."""
    (workspace.folder / "new").write_text("new")
    name = AgentName("t", "pad.lock")

    result = await WorkspaceSaver().save(workspace, name, RUN, asyncio.Event())

    assert SaveOutcome.PUSHED is result.outcome
    assert result.commit == git(server, "rev-parse", result.ref)


async def test_an_index_that_git_cannot_read_is_done_without(
    workspace: Workspace, server: Path
) -> None:
    """The process was killed in the middle of something, or the disk was full."""
    (workspace.folder / "new").write_text("new")
    private = workspace.folder / git(workspace.folder, "rev-parse", "--git-dir")
    (private / "index").write_bytes(b"torn")

    result = await saved(workspace)

    assert SaveOutcome.PUSHED is result.outcome
    assert "index could not be read" in result.error
    assert "new" == git(server, "show", f"{REF}:new")


async def test_a_push_that_fails_is_tried_again(
    workspace: Workspace, server: Path
) -> None:
    """The server has a bad moment."""
    hook = server / "hooks" / "pre-receive"
    hook.write_text("#!/bin/sh\n[ -e tried ] && exit 0\ntouch tried\nexit 1\n")
    hook.chmod(0o755)
    (workspace.folder / "new").write_text("new")

    result = await saved(workspace)

    assert (SaveOutcome.PUSHED, "") == (result.outcome, result.error)
    assert (server / "tried").exists()
    assert result.commit == git(server, "rev-parse", REF)


async def test_what_cannot_be_pushed_stays_marked_here_and_harms_no_start(
    workspace: Workspace, server: Path, tmp_path: Path
) -> None:
    """The receipt says why, without a secret; the next start fetches and prunes."""
    hook = server / "hooks" / "pre-receive"
    hook.write_text("#!/bin/sh\necho x >>tries\necho no s3cretvalue >&2\nexit 1\n")
    hook.chmod(0o755)
    (workspace.folder / "new").write_text("new")

    result = await saved(workspace)

    assert (SaveOutcome.KEPT, REF) == (result.outcome, result.ref)
    assert "git push" in result.error
    assert "s3cretvalue" not in result.error
    assert workspace_save.PUSH_TRIES == len((server / "tries").read_text().split())
    prepare = workspace_maker(tmp_path / "workspaces")
    assert workspace.folder == await prepare(TOAST, workspace.spec)
    assert result.commit == git(workspace.folder, "rev-parse", REF)
    fresh = await prepare(TOAST, replace(workspace.spec, branch="gt/toast/2"))
    assert not (fresh / "new").exists()


@pytest.mark.parametrize("files", [False, True], ids=["none", "some"])
async def test_a_workspace_without_an_origin_is_saved_if_it_holds_files(
    tmp_path: Path, files: bool
) -> None:
    """On its own disk only, and that is said. Our own instructions are no work."""
    folder = await workspace_maker(tmp_path)(TOAST, MAYOR)
    if files:
        (folder / "note").write_text("note")

    result = await saved(Workspace(folder, MAYOR))

    if files:
        assert (SaveOutcome.KEPT, REF) == (result.outcome, result.ref)
        assert "no origin" in result.error
        assert "note" == git(folder, "ls-tree", "--name-only", REF)
    else:
        assert WorkspaceSave(SaveOutcome.UNCHANGED) == result


async def test_a_folder_that_is_no_repository_is_not_looked_for_above(
    workspace: Workspace, tmp_path: Path
) -> None:
    """The data directory may lie in somebody's own repository."""
    git(tmp_path, "init", "-q")
    git(tmp_path, "commit", "-q", "--allow-empty", "-m", "x")
    (workspace.folder / ".git").unlink()
    (workspace.folder / ".git").mkdir()
    (workspace.folder / "new").write_text("new")

    result = await saved(workspace)

    assert SaveOutcome.FAILED is result.outcome
    assert "not a git repository" in result.error
    assert ["refs/heads/master"] == refs(tmp_path)


async def test_the_next_container_begins_beside_the_mark_and_can_go_to_it(
    workspace: Workspace, server: Path, tmp_path: Path
) -> None:
    """A clone knows nothing of it; it is fetched by its name."""
    (workspace.folder / "new").write_text("new")
    await saved(workspace)

    folder = await workspace_maker(tmp_path / "another")(TOAST, workspace.spec)

    assert not (folder / "new").exists()
    assert REF not in refs(folder)
    assert REF in git(folder, "ls-remote", "origin", "refs/townkeeper/drained/toast/*")
    git(folder, "fetch", "-q", "origin", REF)
    git(folder, "switch", "-q", "-c", "rescued", "FETCH_HEAD")
    assert "new" == (folder / "new").read_text()
