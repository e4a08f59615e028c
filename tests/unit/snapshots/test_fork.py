"""A fork among replicas."""

from __future__ import annotations

import uuid
from collections.abc import Collection
from pathlib import Path

import pytest

from services.chassis.names import AgentName
from tests.support.snapshot_values import NAME, snapshot
from tests.support.tokens import TOWN
from tests.unit.snapshots.test_sweep import Plant

OTHER = AgentName(TOWN, "other")


async def test_other_replicas_know_what_it_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a fork names is spared before it is named: the source may be deleted, and
    its segments be removed, by another replica."""
    plant = Plant(tmp_path)
    await plant.commit(made := snapshot(1))
    named: dict[bytes, bool] = {}

    async def spare(town: str, digests: Collection[bytes]) -> None:
        state, _ = await plant.catalog.look(OTHER)
        named.update(dict.fromkeys(digests, state.head is not None))

    monkeypatch.setattr(plant.upkeep, "spare", spare)

    await plant.parts.forker.fork(NAME, 1, OTHER, str(uuid.uuid4()))

    assert dict.fromkeys((s.blake3 for s in made.content.segments), False) == named
