"""The history of a session in an operator's hands: the commands on a real plane."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from services.cli.problems import Exit
from tests.support import notes_agent
from tests.support.plane import PlaneProcess
from tests.support.waiting import wait_until_sync

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]


def say(plane: PlaneProcess, agent: str, message_id: str) -> int:
    """One more note, saved; the generation that has it."""
    plane.run("agents", "message", agent, message_id, f"--id={message_id}", "--wait")
    return int(json.loads(plane.run("agents", "save", agent, "--json"))["generation"])


def listed(plane: PlaneProcess, agent: str, *options: str) -> dict[int, dict[str, Any]]:
    told = plane.run("snapshots", "list", agent, "--json", "--limit=500", *options)
    return {one["generation"]: one for one in json.loads(told)}


def test_labelled_held_deleted_and_back(shared_plane: PlaneProcess) -> None:
    """Each shows where people look for it."""
    plane, agent = shared_plane, "historian"
    notes_agent.start(plane, agent)
    first, last = say(plane, agent, "m1"), say(plane, agent, "m2")
    assert first < last

    plane.run("snapshots", "label", agent, str(first), "before=the move")
    plane.run("snapshots", "hold", agent, str(first))
    held = plane.command("snapshots", "delete", agent, str(first))
    assert (Exit.FAILED, True) == (held.returncode, "release" in held.stderr)
    assert "held  before=the move" in plane.run("snapshots", "list", agent)
    assert "newest" in plane.run("snapshots", "list", agent, "--time-line")
    plane.run("snapshots", "release", agent, str(first))

    told = plane.run("snapshots", "delete", agent, str(first))
    assert f"undelete {agent} {first}" in told
    assert first not in listed(plane, agent)
    assert "deleteTime" in listed(plane, agent, "--deleted")[first]
    refused = plane.command("snapshots", "restore", agent, str(first), "--dry-run")
    assert (Exit.FAILED, True) == (refused.returncode, "undelete" in refused.stderr)
    plane.run("snapshots", "undelete", agent, str(first))

    assert "deleteTime" not in listed(plane, agent)[first]
    plan = plane.run("snapshots", "restore", agent, str(first), "--dry-run")
    assert "would read" in plan
    plane.run("snapshots", "restore", agent, str(first))
    plane.run("agents", "stop", agent)


def test_what_goes_out_comes_in(shared_plane: PlaneProcess, tmp_path: Path) -> None:
    """A session that was exported and changed goes on as changed."""
    plane, agent, file = shared_plane, "traveller", tmp_path / "notes.db"
    notes_agent.start(plane, agent)
    say(plane, agent, "m1")
    plane.run("snapshots", "export", agent, str(file))
    with closing(sqlite3.connect(file)) as database:
        database.execute("insert into note (id, text) values ('edited', 'by hand')")
        database.commit()
        database.execute("pragma journal_mode = delete")
    say(plane, agent, "m2")
    running = plane.command("snapshots", "import", str(file), agent)
    assert (Exit.REFUSED, True) == (running.returncode, "--stop" in running.stderr)
    before = plane.wait_running(agent)

    told = plane.run("snapshots", "import", str(file), agent, "--stop", "--json")

    imported = json.loads(told)
    assert "FORMAT_PAGES" == imported["format"]
    wait_until_sync(
        lambda: plane.wait_running(agent).epoch > before.epoch, what="it runs anew"
    )
    found = notes_agent.notes(plane, agent, tmp_path / "after.db")
    assert {"m1", "edited"} == set(found)
    assert imported["generation"] - 1 in listed(plane, agent), "m2 is in the history"


def test_the_first_state_of_an_agent(
    shared_plane: PlaneProcess, tmp_path: Path
) -> None:
    """A file can be there before its agent ever ran, and comes out the same."""
    plane, agent, file = shared_plane, "newcomer", tmp_path / "notes.db"
    with closing(sqlite3.connect(file)) as database:
        database.execute("create table note (id text primary key, text text)")
        database.execute("insert into note values ('m0', 'from elsewhere')")
        database.commit()

    plane.run("snapshots", "import", str(file), agent)
    plane.run("snapshots", "export", agent, str(tmp_path / "out.db"))

    assert file.read_bytes() == (tmp_path / "out.db").read_bytes()
    notes_agent.start(plane, agent)
    plane.wait_running(agent)
    assert {"m0"} <= set(notes_agent.notes(plane, agent, tmp_path / "after.db"))


def test_bytes_that_no_run_starts_from(
    shared_plane: PlaneProcess, tmp_path: Path
) -> None:
    """Kept on request, and read back as they came."""
    plane, agent, file = shared_plane, "box", tmp_path / "bytes"
    file.write_bytes(b"no database at all")
    refused = plane.command("snapshots", "import", str(file), agent)
    assert Exit.USAGE == refused.returncode

    plane.run("snapshots", "import", str(file), agent, "--opaque")
    plane.run("snapshots", "export", agent, str(tmp_path / "out"))

    assert b"no database at all" == (tmp_path / "out").read_bytes()
    assert "opaque" in plane.run("snapshots", "list", agent)
