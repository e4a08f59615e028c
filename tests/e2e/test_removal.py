"""An agent that is removed leaves nothing behind."""

import json
from pathlib import Path

import pytest

from services.cli.problems import Exit
from tests.support import notes_agent
from tests.support.plane import PlaneProcess
from tests.support.waiting import wait_until_sync

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

AGENT = "gone"


def stored(plane: PlaneProcess) -> list[Path]:
    """Segments and records."""
    towns = plane.data.blobs / "towns"
    return [path for path in towns.rglob("*") if path.is_file()]


def test_what_an_agent_saved_goes_with_it(plane: PlaneProcess, tmp_path: Path) -> None:
    """Not while it runs; and who comes under its name later is somebody else."""
    notes_agent.start(plane, AGENT)
    plane.run("agents", "save", AGENT)
    before = plane.wait_running(AGENT)
    assert Exit.REFUSED == plane.command("agents", "remove", AGENT).returncode
    plane.run("agents", "stop", AGENT)
    assert stored(plane)

    told = plane.run("agents", "remove", AGENT)

    assert "removed towns/town-1/agents/gone and " in told
    wait_until_sync(lambda: not stored(plane), what="the store is empty")
    assert [] == json.loads(plane.run("agents", "list", "--json"))
    assert Exit.NOT_FOUND == plane.command("agents", "remove", AGENT).returncode
    notes_agent.start(plane, AGENT)
    after = plane.wait_running(AGENT)
    assert (False, True) == (after.resumed, after.epoch > before.epoch)
    assert {} == notes_agent.notes(plane, AGENT, tmp_path / "notes.db")
