"""Fixtures of every suite. What only one suite needs stands in its own conftest."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.support.redis_rights import acl_file
from tests.support.redis_server import ValkeyProcess
from tests.support.s3_server import S3Process

# A busy machine must not fail a property; pytest's own time-out still holds.
settings.register_profile("townkeeper", deadline=None)
settings.load_profile("townkeeper")


@pytest.fixture(scope="session")
def valkey_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyProcess]:
    """One Valkey for the whole run; it has the users of docs/security.md."""
    folder = tmp_path_factory.mktemp("valkey")
    with ValkeyProcess(folder, aclfile=acl_file(folder)) as process:
        yield process


@pytest.fixture
def valkey(valkey_process: ValkeyProcess) -> ValkeyProcess:
    """That Valkey, empty. A test that hurts it starts one of its own instead."""
    valkey_process.flush()
    return valkey_process


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Process]:
    """One S3 for the whole run: each test takes a prefix of its own. A test that hurts
    it starts one of its own instead."""
    with S3Process(tmp_path_factory.mktemp("s3")) as process:
        yield process


def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    """With several workers the long stories come first, so that none ends alone."""
    if hasattr(config, "workerinput"):
        items.sort(key=_place)


def _place(item: pytest.Item) -> int:
    names = {mark.name for mark in item.iter_markers()}
    return 0 if "kilo" in names else 1 if names & {"faults", "e2e"} else 2
