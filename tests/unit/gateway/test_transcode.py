"""What clients of the original read of runs and events."""

from __future__ import annotations

import json

import pytest

from services.gateway import transcode
from townkeeper.supervisor.v1 import resources_pb2 as supervisor


@pytest.mark.parametrize("state", supervisor.Run.State.values())
def test_every_state_of_a_run_has_a_word(state: int):
    """One of the original's five."""
    run = supervisor.Run(state=state)  # type: ignore[arg-type]

    words = {"starting", "running", "stopping", "exited", "failed"}
    assert transcode.run_status(run) in words


@pytest.mark.parametrize(
    ("given", "shown"),
    [(1.0, "1"), (1.5, "1.5"), (2.0**60, str(2.0**60)), (float("inf"), "null")],
)
def test_numbers_of_events(given: float, shown: str):
    """Whole ones as whole; what JSON cannot say as null."""
    event = supervisor.Event()
    event.data.update({"n": given})

    assert f'{{"n": {shown}}}' == json.dumps(transcode.event_to_json(event)["data"])
