"""One plane for all tests of the folder, empty at the start of each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from structlog.testing import LogCapture

from tests.contract.gateway.fake_plane import FakePlane


@pytest.fixture(scope="package")
def log() -> Iterator[LogCapture]:
    """What the processes of this folder log, in place of printing it."""
    before: dict[str, Any] = structlog.get_config()
    capture = LogCapture()
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, capture],
        cache_logger_on_first_use=False,
    )
    yield capture
    structlog.configure(**before)


@pytest.fixture(scope="package")
def serving_plane(
    tmp_path_factory: pytest.TempPathFactory, log: LogCapture
) -> Iterator[FakePlane]:
    with FakePlane(tmp_path_factory.mktemp("plane")) as plane:
        yield plane


@pytest.fixture
def plane(serving_plane: FakePlane, log: LogCapture) -> FakePlane:
    serving_plane.reset()
    log.entries.clear()
    return serving_plane
