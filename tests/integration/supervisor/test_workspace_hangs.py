"""Workspaces of a drain where git hangs: each has its limits, the budget ends the rest,
and nothing is left running."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from services.chassis.names import AgentName
from services.supervisor import workspace_save
from services.supervisor.drain import END_S, Drain
from services.supervisor.roster import Roster
from services.supervisor.run import State
from services.supervisor.specs import AgentSpec
from services.supervisor.workspace import workspace_maker
from services.supervisor.workspace_save import SaveOutcome, Workspace, WorkspaceSaver
from tests.fakes.registry_client import FakeRegistry
from tests.fakes.runtime import FakeRuntime
from tests.fakes.snapshots_client import FakeSnapshots
from tests.support.containers import World
from tests.support.waiting import wait_until
from tests.support.workspaces import REF, TOAST, git, saved

pytestmark = pytest.mark.integration

OTHER = AgentName("t", "other")


def running(*words: str) -> list[str]:
    """Command lines of all processes here that hold one of the words."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(path.read_text(errors="replace").replace("\0", " "))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return [line for line in lines if any(word in line for word in words)]


@dataclass
class Silent:
    """A server that takes connections and says nothing."""

    url: str = ""
    asked: int = 0


def at(workspace: Workspace, silent: Silent) -> Workspace:
    """The same, with that origin."""
    return replace(workspace, spec=replace(workspace.spec, git_url=silent.url))


@asynccontextmanager
async def silence() -> AsyncIterator[Silent]:
    silent, over = Silent(), asyncio.Event()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        silent.asked += 1
        await over.wait()
        writer.close()

    listening = await asyncio.start_server(take, "127.0.0.1", 0)
    silent.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/r.git"
    try:
        yield silent
    finally:
        over.set()
        listening.close()


async def test_a_server_that_never_answers_ends_with_the_budget(
    workspace: Workspace,
) -> None:
    """Nothing of git is left running, and the commit is here."""
    (workspace.folder / "new").write_text("new")
    async with silence() as silent:
        workspace = at(workspace, silent)
        spent = asyncio.Event()
        saving = asyncio.create_task(saved(workspace, spent))
        await wait_until(lambda: silent.asked)
        await wait_until(lambda: len(running(REF, silent.url)) > 1)

        spent.set()
        result = await saving

        assert [] == running(REF, silent.url)
    assert (SaveOutcome.KEPT, REF) == (result.outcome, result.ref)
    assert "the time of the drain is over" in result.error


async def test_a_try_that_hangs_leaves_time_for_another(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has its own limit."""
    monkeypatch.setattr(workspace_save, "PUSH_S", 2.0)
    monkeypatch.setattr(workspace_save, "PUSH_TRIES", 2)
    monkeypatch.setattr(workspace_save, "WORKSPACE_S", 6.0)
    (workspace.folder / "new").write_text("new")
    async with silence() as silent:
        workspace = at(workspace, silent)

        result = await saved(workspace)

        assert workspace_save.PUSH_TRIES == silent.asked
        assert [] == running(REF, silent.url)
    assert SaveOutcome.KEPT is result.outcome
    assert "took over 2 s" in result.error
    assert "not ready in time" in result.error  # the last had all that was left


async def test_a_workspace_has_a_limit_of_its_own(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long the budget is: a filter of the agent's own never ends."""
    hang_in_add(workspace.folder, tmp_path)
    monkeypatch.setattr(workspace_save, "WORKSPACE_S", 3.0)

    result = await saved(workspace)

    assert SaveOutcome.FAILED is result.outcome
    assert "not ready in time" in result.error
    assert (tmp_path / "hangs").exists()
    assert [] == running(str(tmp_path / "hangs"))


async def test_a_push_that_hangs_holds_up_the_reading_of_no_other(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is marked in time is not lost while the disk is there."""
    monkeypatch.setattr(workspace_save, "AT_ONCE", 1)
    (workspace.folder / "new").write_text("new")
    quiet = workspace_maker(tmp_path / "another")
    other = Workspace(await quiet(OTHER, workspace.spec), workspace.spec)
    saver, spent, never = WorkspaceSaver(), asyncio.Event(), asyncio.Event()
    async with silence() as silent:
        first = asyncio.create_task(
            saver.save(at(workspace, silent), TOAST, "1", spent)
        )
        await wait_until(lambda: silent.asked)

        second = await asyncio.wait_for(saver.save(other, OTHER, "2", never), 10.0)

        assert SaveOutcome.UNCHANGED is second.outcome
        spent.set()
        assert SaveOutcome.KEPT is (await first).outcome


def hang_in_add(folder: Path, place: Path) -> None:
    """Has git run something with a child that does not end by itself within any limit
    here, when it adds a file."""
    (place / "hang").write_text(
        f"#!/bin/sh\ntouch {place}/hangs\ntimeout 60 tail -f {place}/hangs"
    )
    (place / "hang").chmod(0o755)
    git(folder, "config", "filter.hang.clean", str(place / "hang"))
    (folder / ".gitattributes").write_text("new filter=hang\n")
    (folder / "new").write_text("new")


async def test_a_few_are_saved_at_once(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each reads a whole worktree: who comes later waits for its turn."""
    monkeypatch.setattr(workspace_save, "AT_ONCE", 1)
    hang_in_add(workspace.folder, tmp_path)
    quiet = workspace_maker(tmp_path / "another")
    other = Workspace(await quiet(OTHER, workspace.spec), workspace.spec)
    saver, spent, never = WorkspaceSaver(), asyncio.Event(), asyncio.Event()
    first = asyncio.create_task(saver.save(workspace, TOAST, "1", spent))
    await wait_until((tmp_path / "hangs").exists)
    second = asyncio.create_task(saver.save(other, OTHER, "2", never))
    assert (set(), {second}) == await asyncio.wait({second}, timeout=2.0)

    spent.set()

    assert SaveOutcome.FAILED is (await first).outcome
    assert SaveOutcome.UNCHANGED is (await second).outcome


@dataclass
class GitWorld(World):
    """Whose agents work in real workspaces."""

    async def _workspace(self, name: AgentName, spec: AgentSpec) -> Path:
        return await workspace_maker(self.tmp_path / "workspaces")(name, spec)


async def test_a_whole_drain_with_one_that_hangs(
    spec: AgentSpec, server: Path, tmp_path: Path
) -> None:
    """Both sessions are saved and both leases given back; one workspace is pushed, the
    other has its receipt when the budget ends."""
    specs = {TOAST: spec, OTHER: replace(spec, branch="gt/other/new")}
    registry = FakeRegistry(specs=specs)
    world = GitWorld(tmp_path, registry, FakeSnapshots(), FakeRuntime())
    around = world.surroundings()
    roster = Roster(around)

    async def announce() -> None:
        around.leaving.set()

    drain = Drain(roster, announce, WorkspaceSaver().save)
    for name in specs:
        run = await roster.start(name)
        world.runtime.handle.write(f"of {name}")
        (Path(run.workdir) / "new").write_text(name.agent)
    hang_in_add(Path(run.workdir), tmp_path)
    drain.begin(END_S + 600.0)
    receipts = drain.receipts()

    first = await anext(receipts)
    await wait_until((tmp_path / "hangs").exists)
    assert not world.registry.held
    drain.begin(0.0)
    last = await anext(receipts)
    await drain.ended()

    assert (TOAST, OTHER) == (first.run.name, last.run.name)
    assert {State.EXITED} == {first.run.state, last.run.state}
    assert first.workspace is not None
    assert last.workspace is not None
    assert SaveOutcome.PUSHED is first.workspace.outcome
    assert "toast" == git(server, "show", f"{first.workspace.ref}:new")
    assert SaveOutcome.FAILED is last.workspace.outcome
    assert "the time of the drain is over" in last.workspace.error
    assert [] == running(str(tmp_path / "hangs"))
