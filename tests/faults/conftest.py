"""A plane for all fault tests that leave it whole; each takes a town of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.plane import PlaneProcess


@pytest.fixture(scope="package")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlaneProcess]:
    """A real plane, once for the package."""
    with PlaneProcess(tmp_path_factory.mktemp("plane") / "data") as process:
        yield process
