"""Records beside a deletion: what is forgotten leaves none, whoever writes it late."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from services.snapshots.amendment import Amendment
from services.snapshots.generations import Claim
from tests.fakes.snapshot_catalog import MemoryCatalog
from tests.support.snapshot_values import NAME, snapshot
from tests.unit.snapshots.test_sweep import Plant

LABEL = Amendment(labels=(("before", "the move"),))


@pytest.fixture
async def plant(tmp_path: Path) -> Plant:
    """An agent with two generations."""
    plant = Plant(tmp_path)
    for generation in (1, 2):
        await plant.commit(snapshot(generation))
    return plant


def label(plant: Plant) -> Awaitable[object]:
    return plant.parts.editor.amend(NAME, 1, LABEL, "")


def soft_deletion(plant: Plant) -> Awaitable[object]:
    return plant.parts.editor.delete(NAME, 1, Claim(), None)


async def purge(plant: Plant, generation: int | None = 1) -> None:
    await plant.parts.shelf.delete(NAME, generation, Claim(), None)


async def meanwhile(
    change: Awaitable[object],
    plant: Plant,
    step: str,
    act: Callable[[], Awaitable[None]],
) -> None:
    """Acts while the change is held up at this call to the blob store."""
    plant.blobs.pause.at(step)
    changing = asyncio.ensure_future(change)
    await plant.blobs.pause.arrived()
    await act()
    plant.blobs.pause.go_on()
    await changing


@pytest.mark.parametrize("change", [label, soft_deletion])
async def test_a_change_that_a_purge_overtakes(
    plant: Plant, change: Callable[[Plant], Awaitable[object]]
) -> None:
    """Its record, which comes last, is not what is left of the generation."""
    await meanwhile(change(plant), plant, "swap", lambda: purge(plant))

    assert [2] == plant.recorded()
    assert [2] == await plant.generations()


async def test_a_commit_that_the_end_of_its_agent_overtakes(plant: Plant) -> None:
    """The same for the record of a new generation."""
    made = snapshot(3)
    await plant.commit(made, record=False)
    recording = plant.parts.editor.committer.record(made)

    await meanwhile(recording, plant, "create", lambda: purge(plant, None))

    assert [] == plant.recorded()


async def test_what_was_rebuilt_from_it_meanwhile_goes_as_well(plant: Plant) -> None:
    """A rebuilding before the late record is gone again brings nothing back."""
    pause = plant.blobs.pause
    pause.at("swap")
    changing = asyncio.ensure_future(label(plant))
    await pause.arrived()
    await purge(plant)
    pause.go_on()
    pause.at("delete")
    await pause.arrived()
    await plant.parts.rebuilder.agent(NAME)
    assert [2, 1] == await plant.generations()
    pause.go_on()
    await changing

    assert [2] == plant.recorded()
    assert [2] == await plant.generations()


async def test_a_catalog_that_was_lost_meanwhile_removes_nothing(plant: Plant) -> None:
    """Its silence about the generation is no deletion."""

    async def lose() -> None:
        plant.catalog.__dict__.update(MemoryCatalog().__dict__)

    await meanwhile(label(plant), plant, "swap", lose)

    assert [1, 2] == plant.recorded()
