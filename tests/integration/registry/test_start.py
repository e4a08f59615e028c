"""The registry as a process: what it starts with, what it refuses to start with."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from services.chassis.errors import Reason
from services.chassis.sealing import sealing_files
from tests.support import redis_rights
from tests.support.redis_cluster import cluster_url, lone_node
from tests.support.redis_server import ValkeyProcess
from tests.support.registry_calls import every_call
from tests.support.registry_process import RegistryProcess
from tests.support.registry_requests import (
    GET,
    PARENT,
    REGISTER,
)
from tests.support.registry_server import refused
from townkeeper.registry.v1 import registry_pb2 as pb

pytestmark = [pytest.mark.integration, pytest.mark.timeout(60)]


class TestStart:
    async def test_refuses_writes_where_redis_keeps_them_badly(
        self, tmp_path, tokens, connect
    ):
        """`everysec` can lose what was acknowledged: reads go on, writes do not."""
        with (
            ValkeyProcess(tmp_path, appendfsync="everysec") as valkey,
            RegistryProcess(tmp_path / "registry", valkey.url, tokens) as registry,
        ):
            error = await refused(connect(registry).RegisterAgent(REGISTER))
            absent = await refused(connect(registry).GetAgent(GET))

        assert Reason.NOT_DURABLE is error.reason
        assert Reason.AGENT_NOT_FOUND is absent.reason

    def test_stops_at_the_store_of_another_environment(
        self, tmp_path, valkey, registry, tokens
    ):
        """The mark names both, and the store stays as it was."""
        stranger = RegistryProcess(
            tmp_path / "other", valkey.url, tokens, TOWNKEEPER_ENVIRONMENT="production"
        )

        said = stranger.refused()

        assert "production" in said
        assert "development" in said
        assert "TOWNKEEPER_ENVIRONMENT" in said

    def test_names_every_bad_variable_at_once(self, tmp_path, tokens):
        """One look is enough to mend them."""
        process = RegistryProcess(
            tmp_path,
            "http://redis",
            tokens,
            TOWNKEEPER_REGISTRY_ADDR="nowhere",
            TOWNKEEPER_LEASE_TTL="soon",
            TOWNKEEPER_JWKS_URL="http://keys/jwks.json",
        )

        said = process.refused()

        for name in (
            "TOWNKEEPER_REDIS_URL",
            "TOWNKEEPER_REGISTRY_ADDR",
            "TOWNKEEPER_LEASE_TTL",
            "TOWNKEEPER_JWKS_URL",
        ):
            assert name in said

    def test_does_not_keep_secrets_in_clear_unless_told_so(
        self, tmp_path, valkey, tokens
    ):
        """Without a sealing key it says how to make one, and how to do without."""
        process = RegistryProcess(tmp_path / "registry", valkey.url, tokens)
        for file in sealing_files(tokens.folder):
            file.unlink()

        said = process.refused()

        assert "townkeeper keys rotate --sealing" in said
        process.environ["TOWNKEEPER_SEALING"] = "off"
        with process:
            assert 0 == process.stop()
        assert "Traceback" not in said

    def test_names_an_occupied_port(self, tmp_path, valkey, registry, tokens):
        """The second one says whose place it wants."""
        second = RegistryProcess(
            tmp_path / "other",
            valkey.url,
            tokens,
            TOWNKEEPER_REGISTRY_ADDR=registry.address,
        )

        said = second.refused()

        assert f"cannot listen on {registry.address}" in said
        assert "Traceback" not in said

    async def test_ends_in_order(self, registry, connect):
        """SIGTERM with a watch open: told, and gone with exit code 0."""
        call = connect(registry).WatchMessages(pb.WatchMessagesRequest(parent=PARENT))
        assert "" == (await call.read()).agent

        code = await asyncio.to_thread(registry.stop)

        assert 0 == code
        assert Reason.SHUTTING_DOWN is (await refused(call.read())).reason


class TestCluster:
    async def test_serves_every_call(self, tmp_path: Path, tokens, connect):
        """Every script finds all its keys in one slot, hints travel too, and the user
        of docs/security.md is refused nothing."""
        users = redis_rights.acl_file(tmp_path)
        with lone_node(tmp_path, aclfile=users) as node:
            redis_rights.allow(node, "cluster")
            url = cluster_url(node, redis_rights.login(redis_rights.REGISTRY))
            with RegistryProcess(tmp_path / "registry", url, tokens) as registry:
                await every_call(connect(registry))

            assert "" == redis_rights.refusals(node)
