"""The campaign of `save_storm`, in a few rounds; `make storm` runs it whole."""

import os

import pytest

from tests.faults.save_storm import play

# Small enough that a save takes milliseconds, large enough to spill.
ROWS = 3000


@pytest.mark.campaign
@pytest.mark.faults
@pytest.mark.timeout(300)
def test_saves_under_a_storm_are_what_sqlite_sees() -> None:
    """Each save is one committed state, page by page, whatever the writers do."""
    rounds, seed = int(os.environ.get("ROUNDS") or 60), os.environ.get("SEED") or 1

    ways, complaints = play(rounds, int(seed), print, ROWS)

    assert [] == complaints
    assert ways["log"] > 0
