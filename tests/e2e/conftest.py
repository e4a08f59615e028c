"""Stories through the outside interface, each on real processes."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.plane import PlaneProcess


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[PlaneProcess]:
    """A plane of its own for a test that kills it."""
    with PlaneProcess(tmp_path / "data") as plane:
        yield plane


@pytest.fixture(scope="module")
def shared_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlaneProcess]:
    """One plane for all tests of a module that leave it alone."""
    with PlaneProcess(tmp_path_factory.mktemp("plane") / "data") as plane:
        yield plane
