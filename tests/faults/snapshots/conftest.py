"""A snapshot service of its own for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.snapshots.plant import Plant
from tests.support.redis_server import ValkeyProcess


@pytest.fixture
def plant(tmp_path: Path, valkey: ValkeyProcess) -> Iterator[Plant]:
    """Not started: a test says how."""
    plant = Plant(tmp_path, valkey)
    yield plant
    plant.process.kill()
