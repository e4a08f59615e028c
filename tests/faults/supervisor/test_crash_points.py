"""SIGKILL at each durable step of a supervisor's saves, and of its ways to put a
session in place; then another one on the same disk, and one on an empty disk."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.faults.supervisor.fleet import PROGRAM, Fleet, Life, Notes
from tests.support.lives import Lives
from tests.support.redis_server import ValkeyProcess
from tests.support.snapshots_process import SnapshotsProcess
from tests.support.tokens import Tokens

pytestmark = [
    pytest.mark.campaign,
    pytest.mark.faults,
    pytest.mark.redis,
    pytest.mark.timeout(600),
]

# Every so manieth point, unless asked for all of them.
STRIDE = 1 if os.environ.get("ROUNDS") else 14
SEED = int(os.environ.get("SEED") or 1)


@pytest.fixture
def fleet(tmp_path: Path, valkey: ValkeyProcess) -> Iterator[Fleet]:
    tokens = Tokens(tmp_path)
    with (
        SnapshotsProcess(tmp_path, valkey.url, tokens) as snapshots,
        Lives(PROGRAM) as lives,
    ):
        yield Fleet(tmp_path, lives, snapshots, tokens.container())


@dataclass(frozen=True)
class Story:
    """What happens before, on which disks; then what is cut at each of its steps."""

    before: list[tuple[str, list[str]]]
    disk: str
    act: list[str]
    # What lies at the place before and after the session is put there.
    old: Notes
    new: Notes
    # What may not get lost though nobody goes on from it.
    superseded: Notes = None


STORIES = {
    "the first saves": Story(
        before=[],
        disk="here",
        act=["hydrate", "write a", "save", "write b", "save", "close"],
        old=None,
        new=[],
    ),
    "on the same disk": Story(
        before=[("here", ["hydrate", "write a", "save", "write b"])],
        disk="here",
        act=["hydrate", "write c", "save", "close"],
        old=["a", "b"],
        new=["a", "b"],
    ),
    "on an empty disk": Story(
        before=[("there", ["hydrate", "write a", "save", "write b", "save"])],
        disk="here",
        act=["hydrate", "write c", "save", "close"],
        old=None,
        new=["a", "b"],
    ),
    "after somebody else": Story(
        before=[
            ("here", ["hydrate", "write a", "save", "checkpoint", "write lost"]),
            ("there", ["hydrate", "write b", "save"]),
        ],
        disk="here",
        act=["hydrate", "write c", "save", "close"],
        old=["a", "lost"],
        new=["a", "b"],
        superseded=["a", "lost"],
    ),
}


RESTORE = Story(
    before=[
        (
            "here",
            ["hydrate", "write a", "save", "write b", "save", "checkpoint", "write c"],
        )
    ],
    disk="here",
    act=["restore 1"],
    old=["a", "b", "c"],
    new=["a"],
    superseded=["a", "b", "c"],
)


@pytest.mark.parametrize("story", STORIES.values(), ids=STORIES.keys())
def test_every_step(fleet: Fleet, story: Story) -> None:
    """Whenever a supervisor dies, what lies at the place is the old database or the
    new one, whole; whoever comes next goes on with all that was acknowledged, here and
    elsewhere, saves only what changed, and leaves no file behind."""

    def survives(life: Life, files: set[str]) -> bool:
        place, written = fleet.at_place(story.disk), life.written
        if life.did("hydrate"):
            assert place == ([*(story.new or []), *written] or None)
        else:
            assert place in (None, story.old, story.new)
        before = fleet.chains()

        successor = _next_life(fleet, story.disk)

        [(_, notes)] = successor.reports
        assert notes == [*(story.new or []), *written]
        assert files == fleet.files(story.disk)
        # One that was fetched and not written down yet is fetched again.
        aside = [one for one in fleet.aside(story.disk) if one != story.new]
        assert bool(aside) == bool(story.superseded)
        assert all(one == story.superseded for one in aside)
        _is_elsewhere(fleet, [*notes, "z"])
        whole = _made_a_base(fleet, before)
        assert not whole or not before or _without_map(life)
        return whole

    _every_step(fleet, story, survives)


def test_every_step_of_a_restore(fleet: Fleet) -> None:
    """An older generation takes the place of the newest state or does not; that state
    is a generation by then."""

    def survives(life: Life, files: set[str]) -> bool:
        assert fleet.at_place("here") in (None, RESTORE.old, RESTORE.new)
        before = fleet.chains()

        successor = _next_life(fleet, "here")

        [(_, notes)] = successor.reports
        assert notes in (RESTORE.old, RESTORE.new)
        assert files == fleet.files("here")
        stored = [fleet.stored(generation) for generation in fleet.chains()]
        assert RESTORE.superseded in stored
        _is_elsewhere(fleet, [*notes, "z"])
        return _made_a_base(fleet, before)

    _every_step(fleet, RESTORE, survives)


def _every_step(
    fleet: Fleet, story: Story, survives: Callable[[Life, set[str]], bool]
) -> None:
    _prepare(fleet, story)
    steps = fleet.live(story.disk, story.act).steps
    _next_life(fleet, story.disk)
    files = fleet.files(story.disk)
    points = range(1 + SEED % STRIDE, len(steps) + 1, STRIDE)
    bases = 0
    for die_at in points:
        _prepare(fleet, story)
        life = fleet.live(story.disk, story.act, die_at)
        try:
            bases += survives(life, files)
        except BaseException as error:
            error.add_note(f"killed before step {die_at} of {len(steps)}: {life.steps}")
            raise
    sys.stderr.write(
        f"{len(steps)} points, killed at {len(points)} of them, then {bases} bases\n"
    )


def _prepare(fleet: Fleet, story: Story) -> None:
    fleet.new_agent()
    for disk, do in story.before:
        fleet.live(disk, do)


def _next_life(fleet: Fleet, disk: str) -> Life:
    return fleet.live(disk, ["hydrate", "report", "write z", "save", "close"])


def _is_elsewhere(fleet: Fleet, notes: list[str]) -> None:
    """What one finds that has nothing but the store."""
    found = fleet.live("elsewhere", ["hydrate", "report"])
    assert notes == found.reports[-1][1]


def _made_a_base(fleet: Fleet, before: dict[int, int]) -> bool:
    """Whether any save since was of the whole session."""
    made = {one: chain for one, chain in fleet.chains().items() if one not in before}
    assert made, "the note of the successor was not saved"
    return 1 in made.values()


def _without_map(life: Life) -> bool:
    """Whether it died between a commit and the page map of it: the one moment after
    which a save costs the whole session."""
    return life.steps[-1] == "upload answered" or "pages.map" in life.steps[-1]
