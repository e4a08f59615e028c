"""Workspaces: the same path and the same root commit each time, nothing lost in it."""

import asyncio
import subprocess
from dataclasses import replace

import pytest

from services.chassis.errors import Reason, ServiceError
from services.chassis.names import AgentName
from services.supervisor.specs import AgentSpec, Role
from services.supervisor.workspace import workspace_maker

pytestmark = pytest.mark.integration

TOAST, MAYOR = AgentName("t", "toast"), AgentName("t", "mayor")
EMPTY_ROOT = "4bb72859543bfa09b6b544a3119fdfe3fee70e51"


def git(folder, *arguments):
    done = subprocess.run(
        ["git", "-c", "user.name=Test", "-c", "user.email=test@localhost", *arguments],
        cwd=folder,
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


@pytest.fixture
def origin(tmp_path):
    """A repository with a default branch and one that somebody pushed."""
    folder = tmp_path / "origin"
    folder.mkdir()
    git(folder, "init", "-q", "-b", "main")
    (folder / "file").write_text("one")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "first")
    git(folder, "checkout", "-q", "-b", "gt/toast/pushed")
    (folder / "file").write_text("pushed")
    git(folder, "commit", "-q", "-a", "-m", "second")
    git(folder, "checkout", "-q", "main")
    return folder


@pytest.fixture
def root(tmp_path):
    return tmp_path / "workspaces"


@pytest.fixture
def prepare(root):
    return workspace_maker(root)


def polecat(origin, branch="gt/toast/new", **fields):
    return AgentSpec(
        rig="r",
        role=Role.POLECAT,
        git_url=f"file://{origin}",
        branch=branch,
        default_branch="main",
        **fields,
    )


LIGHT = AgentSpec(rig="r", role=Role.TRIAGE, lightweight=True)


async def test_an_empty_workspace_has_always_the_same_root(prepare):
    """Its hash is the runtime's project id: a restored session must find it again."""
    folder = await prepare(TOAST, LIGHT)

    assert EMPTY_ROOT == git(folder, "rev-list", "--max-parents=0", "HEAD")
    assert "" == git(folder, "status", "--porcelain")
    assert "" == git(folder, "fsck", "--strict")


async def test_an_empty_workspace_is_kept(prepare):
    """Work and commits of an earlier run are still there."""
    folder = await prepare(TOAST, LIGHT)
    (folder / "note").write_text("kept")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "work")
    head = git(folder, "rev-parse", "HEAD")

    again = await prepare(TOAST, LIGHT)

    assert folder == again
    assert head == git(again, "rev-parse", "HEAD")
    assert "kept" == (again / "note").read_text()


async def test_a_mayor_reads_its_instructions_from_a_file(prepare, root):
    """The newest ones; a link that was put in their place is not followed."""
    spec = AgentSpec(rig="mayor-t", role=Role.MAYOR, system_prompt="Be kind.")
    folder = await prepare(MAYOR, spec)
    outside = root / "outside"
    outside.write_text("mine")
    (folder / "AGENTS.md").unlink()
    (folder / "AGENTS.md").symlink_to(outside)

    await prepare(MAYOR, spec)

    assert "Be kind." == (folder / "AGENTS.md").read_text()
    assert "mine" == outside.read_text()


@pytest.mark.parametrize("role", [Role.POLECAT, Role.REFINERY, Role.TRIAGE])
async def test_a_field_says_who_works_without_the_repository(prepare, origin, role):
    """The role does not: any may be lightweight, and none is by itself."""
    spec = replace(polecat(origin), role=role)

    light = await prepare(TOAST, replace(spec, lightweight=True))
    heavy = await prepare(TOAST, spec)

    assert [".git"] == [path.name for path in light.iterdir()]
    assert "one" == (heavy / "file").read_text()


@pytest.mark.parametrize(
    ("branch", "fields", "content"),
    [
        pytest.param("gt/toast/new", {}, "one", id="new, from the default"),
        pytest.param("gt/toast/pushed", {}, "pushed", id="pushed before"),
        pytest.param(
            "gt/toast/x", {"start_point": "gt/toast/pushed"}, "pushed", id="start point"
        ),
    ],
)
async def test_a_worktree_begins_where_it_should(
    prepare, origin, branch, fields, content
):
    """At its own pushed state, else at the start point, else at the default branch."""
    folder = await prepare(TOAST, polecat(origin, branch, **fields))

    assert content == (folder / "file").read_text()
    assert branch == git(folder, "branch", "--show-current")


async def test_a_worktree_is_found_again_with_its_work(prepare, origin):
    """Uncommitted changes too; the origin's news do not touch it."""
    folder = await prepare(TOAST, polecat(origin))
    (folder / "file").write_text("mine")
    git(origin, "commit", "-q", "--allow-empty", "-m", "news")

    again = await prepare(TOAST, polecat(origin))

    assert folder == again
    assert "mine" == (again / "file").read_text()


async def test_agents_of_a_rig_share_one_clone(prepare, origin, root):
    """Started at once, each has a worktree of its own, on one branch even."""
    names = [AgentName("t", f"agent{number}") for number in range(4)]

    folders = await asyncio.gather(*(prepare(n, polecat(origin)) for n in names))

    assert 4 == len(set(folders))
    assert [root / "rigs/r/repo.git"] == list((root / "rigs/r").glob("*.git"))


async def test_an_origin_that_is_away_does_not_stop_a_known_rig(prepare, origin):
    """What was fetched before is enough; the first time it is an error."""
    first = await prepare(TOAST, polecat(origin))
    origin.rename(origin.with_name("away"))

    assert first == await prepare(TOAST, polecat(origin))
    with pytest.raises(ServiceError) as failed:
        await prepare(TOAST, replace(polecat(origin), rig="new"))
    assert Reason.START_FAILED is failed.value.reason


async def test_a_broken_worktree_is_set_aside(prepare, origin):
    """It may hold somebody's work: it is not deleted."""
    folder = await prepare(TOAST, polecat(origin))
    (folder / "file").write_text("mine")
    (folder / ".git").unlink()

    again = await prepare(TOAST, polecat(origin))

    assert "one" == (again / "file").read_text()
    (aside,) = folder.parent.glob("*~aside~*")
    assert "mine" == (aside / "file").read_text()


async def test_a_credential_stays_out_of_every_tree(prepare, origin, root):
    """In one private file that git is told of; not in a URL, not in a worktree."""
    spec = AgentSpec(
        rig="r",
        role=Role.POLECAT,
        git_url="http://127.0.0.1:9/o/r.git",
        branch="main",
        env_vars={"GIT_TOKEN": "s3cret"},
    )
    with pytest.raises(ServiceError) as failed:
        await prepare(TOAST, spec)

    holders = [
        p for p in root.rglob("*") if p.is_file() and b"s3cret" in p.read_bytes()
    ]
    assert [root / "rigs/r/credentials"] == holders
    assert 0o600 == holders[0].stat().st_mode & 0o777
    assert "s3cret" not in failed.value.message


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        pytest.param({"branch": "--upload-pack=x"}, Reason.FIELD_INVALID, id="option"),
        pytest.param({"git_url": "ext::sh -c id"}, Reason.FIELD_INVALID, id="ext"),
        pytest.param({"start_point": "nowhere"}, Reason.START_FAILED, id="unknown"),
    ],
)
async def test_what_git_cannot_be_given_is_refused(prepare, origin, fields, reason):
    """Before or by git, with a text that says what was wrong."""
    spec = AgentSpec(
        **{
            "rig": "r",
            "role": Role.POLECAT,
            "git_url": f"file://{origin}",
            "branch": "b",
            **fields,
        }
    )
    with pytest.raises(ServiceError) as refused:
        await prepare(TOAST, spec)

    assert reason is refused.value.reason
    assert refused.value.message.startswith("cannot ")


async def test_a_workspace_that_is_a_link_is_refused(prepare, root, tmp_path):
    """A run must not work in a folder that is not its own."""
    (root / "agents").mkdir(parents=True)
    (root / "agents" / "toast").symlink_to(tmp_path)

    with pytest.raises(ServiceError) as refused:
        await prepare(TOAST, LIGHT)

    assert Reason.FIELD_INVALID is refused.value.reason
