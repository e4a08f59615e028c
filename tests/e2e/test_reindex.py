"""A catalog is rebuilt beside agents that run: they go on, and nothing is lost."""

import json
from pathlib import Path

import pytest

from services.cli.problems import Exit
from tests.support import notes_agent
from tests.support.plane import PlaneProcess
from tests.support.waiting import wait_until_sync

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

AGENT = "ada"


def test_a_running_agent_goes_on(plane: PlaneProcess, tmp_path: Path) -> None:
    """It is fenced, claims again and has all its notes, those that were not saved at
    that moment as well."""
    notes_agent.start(plane, AGENT)
    before = plane.wait_running(AGENT)
    plane.run("agents", "message", AGENT, "All is quiet.", "--id=m1", "--wait")

    told = plane.run("snapshots", "reindex", "--json")
    plane.run("agents", "message", AGENT, "A stranger came.", "--id=m2")

    [done] = [json.loads(line) for line in told.splitlines()]
    assert (plane.agent_name(AGENT), before.epoch + 1) == (done["agent"], done["epoch"])
    assert done["head"] >= 1
    plane.wait_settled(AGENT, "m2")
    wait_until_sync(
        lambda: plane.wait_running(AGENT).epoch == before.epoch + 1, what="it runs anew"
    )
    assert {"m1", "m2"} == set(notes_agent.notes(plane, AGENT, tmp_path / "notes.db"))
    assert "aside" not in {path.name for path in plane.data.container.rglob("aside")}


def test_only_an_operator_may(plane: PlaneProcess) -> None:
    """It ends all owners; a container may not."""
    token = plane.token("container")

    refused = plane.command("snapshots", "reindex", f"--token={token}")

    assert Exit.REFUSED == refused.returncode
