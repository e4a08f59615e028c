"""A rebuilding that is cut off: the repair writes what it owes to the blob store."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from services.chassis.errors import ServiceError
from services.snapshots import records
from services.snapshots.store import RECORDS_KEPT
from tests.support.faults import failing
from tests.support.snapshot_values import NAME, snapshot
from tests.unit.snapshots.test_sweep import Plant


async def test_records_that_were_not_written(tmp_path: Path) -> None:
    """A commit and a change are on their way, both of generations whose records the
    catalog does not keep otherwise."""
    plant = Plant(tmp_path)
    made = [snapshot(n) for n in range(1, RECORDS_KEPT + 4)]
    for each in made:
        await plant.commit(each, record=each.generation != 1)
    changed = replace(made[1], revision=1)
    await plant.catalog.revise(NAME, made[1], changed)
    plant.blobs.before = failing("create", "swap")
    with pytest.raises(ServiceError, match="told to fail"):
        await plant.parts.rebuilder.agent(NAME)
    plant.blobs.before = lambda method, key: None

    await plant.sweeper.start()

    for expected in (made[0], changed):
        key = records.record_key(NAME, expected.generation)
        assert expected == records.from_json(plant.blobs.blobs[key])
