"""Both services as the users of Redis that docs/security.md gives them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from services.chassis.channels import StaticToken, open_channel
from tests.support import redis_rights
from tests.support.redis_rights import REGISTRY, SNAPSHOTS
from tests.support.redis_server import ValkeyProcess
from tests.support.registry_calls import every_call
from tests.support.registry_process import RegistryProcess
from tests.support.snapshot_frames import Client
from tests.support.snapshots_process import SnapshotsProcess, refused_start
from tests.support.tokens import Tokens
from townkeeper.registry.v1.registry_pb2_grpc import RegistryServiceStub

pytestmark = [pytest.mark.integration, pytest.mark.redis, pytest.mark.timeout(120)]


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[ValkeyProcess]:
    with ValkeyProcess(tmp_path, aclfile=redis_rights.acl_file(tmp_path)) as process:
        yield process


@pytest.fixture
def registry(tmp_path: Path, valkey: ValkeyProcess) -> Iterator[RegistryProcess]:
    """Not started: a test says how."""
    url = redis_rights.url(valkey, REGISTRY)
    process = RegistryProcess(tmp_path / "registry", url, Tokens(tmp_path))
    yield process
    process.kill()


@pytest.fixture
def snapshots(tmp_path: Path, valkey: ValkeyProcess) -> Iterator[SnapshotsProcess]:
    """Not started: a test says how."""
    url = redis_rights.url(valkey, SNAPSHOTS)
    process = SnapshotsProcess(tmp_path / "snapshots", url, Tokens(tmp_path))
    yield process
    process.kill()


async def test_a_story_needs_no_more(
    tmp_path: Path,
    valkey: ValkeyProcess,
    registry: RegistryProcess,
    snapshots: SnapshotsProcess,
) -> None:
    """Leases, messages, watches, saves, reads, deletions; nothing is refused."""
    tokens = Tokens(tmp_path)
    registry.start()
    snapshots.start()

    async with open_channel(
        registry.address, StaticToken(tokens.container())
    ) as channel:
        await every_call(RegistryServiceStub(channel))
    async with open_channel(
        snapshots.address, StaticToken(tokens.container())
    ) as channel:
        client = Client(channel)
        await client.upload_file(b"first")
        await client.upload_file(b"second")
        assert b"second" == (await client.download()).data
        await client.list()
        await client.delete("-")

    assert redis_rights.refusals(valkey) == ""
    assert (registry.stop(), snapshots.stop()) == (0, 0)
    for log in (registry.log, snapshots.log):
        assert "NOPERM" not in log.read_text()
        assert "Traceback" not in log.read_text()


def test_what_is_missing_stops_the_start(
    valkey: ValkeyProcess, registry: RegistryProcess, snapshots: SnapshotsProcess
) -> None:
    """One line that names the user and the command."""
    for user, right in ((REGISTRY, "-psubscribe"), (SNAPSHOTS, "-zrevrange")):
        valkey.command("ACL", "SETUSER", user, right)

    said = {
        REGISTRY: registry.refused(),
        SNAPSHOTS: refused_start(snapshots.environ),
    }

    for user, command in ((REGISTRY, "PSUBSCRIBE"), (SNAPSHOTS, "ZREVRANGE")):
        assert user in said[user]
        assert command in said[user]
        assert "docs/security.md" in said[user]
        assert 1 == len(said[user].splitlines())
