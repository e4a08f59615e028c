"""A snapshot service of its own for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.snapshots.mortal import PROGRAM, Stage
from tests.faults.snapshots.plant import Plant
from tests.support.lives import Lives
from tests.support.redis_server import ValkeyProcess


@pytest.fixture
def plant(tmp_path: Path, valkey: ValkeyProcess) -> Iterator[Plant]:
    """Not started: a test says how."""
    plant = Plant(tmp_path, valkey)
    yield plant
    plant.process.kill()


@pytest.fixture(scope="session")
def lives() -> Iterator[Lives]:
    """Of services that die."""
    with Lives(PROGRAM) as lives:
        yield lives


@pytest.fixture
def stage(tmp_path: Path, valkey: ValkeyProcess, lives: Lives) -> Iterator[Stage]:
    """The same for a service that is to die at each step; not started either."""
    stage = Stage(tmp_path, valkey, lives)
    yield stage
    stage.process.kill()
