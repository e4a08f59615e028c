"""The registry as a process: what it keeps when things die, and what it says then."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.chassis.errors import Reason, ServiceError, rpc_errors
from services.registry import wire
from services.registry.policy import SERVICE
from tests.support.redis_server import ValkeyProcess
from tests.support.registry_process import RegistryProcess
from tests.support.registry_samples import (
    ADDRESS,
    BOOT,
    EXEC_SPEC,
    FIRST,
    MAYOR,
    SPEC,
    message,
)
from tests.support.registry_server import refused
from tests.support.tokens import TOWN, Tokens
from tests.support.waiting import wait_until
from townkeeper.registry.v1 import registry_pb2 as pb
from townkeeper.registry.v1 import registry_pb2_grpc
from townkeeper.registry.v1 import resources_pb2 as resources

pytestmark = [pytest.mark.integration, pytest.mark.timeout(60)]

PARENT = f"towns/{TOWN}"
REGISTER = pb.RegisterAgentRequest(
    name=str(MAYOR), spec=wire.spec_to_proto(SPEC, reveal=True)
)
GET = pb.GetAgentRequest(name=str(MAYOR))


def enqueue(message_id: str, text: str = "Hello") -> Any:
    return pb.EnqueueMessageRequest(parent=str(MAYOR), message_id=message_id, text=text)


async def claimed(stub: Any) -> int:
    """Has an instance hold the agent; returns the epoch."""
    await stub.RegisterAgent(REGISTER)
    await stub.RegisterInstance(
        pb.RegisterInstanceRequest(name=str(FIRST), boot_id=BOOT, address=ADDRESS)
    )
    answer = await stub.ClaimAgents(
        pb.ClaimAgentsRequest(instance=str(FIRST), boot_id=BOOT)
    )
    epoch: int = answer.claims[0].agent.lease.epoch
    return epoch


class TestDeath:
    async def test_of_redis_loses_nothing_that_was_acknowledged(
        self, valkey, registry, connect
    ):
        """SIGKILL right after an answer: message, record, lease, epoch are there."""
        stub = connect(registry)
        epoch = await claimed(stub)
        for index in range(20):
            await stub.EnqueueMessage(enqueue(f"m-{index}"))

            valkey.kill()
            valkey.start()

            listed = await listed_again(stub)
            assert f"m-{index}" == listed[-1]
        agent = (await stub.GetAgent(GET)).agent
        assert (20, epoch, True) == (
            agent.pending_messages_count,
            agent.lease.epoch,
            agent.lease.live,
        )

    async def test_of_both_loses_nothing_either(self, valkey, registry, connect):
        """The registry keeps nothing to itself."""
        stub = connect(registry)
        await claimed(stub)
        await stub.EnqueueMessage(enqueue("m-1"))

        registry.kill()
        valkey.kill()
        valkey.start()
        registry.start()

        await answers_again(stub)
        again = await stub.EnqueueMessage(enqueue("m-1"))
        assert (False, 1) == (again.created, again.message.sequence)
        beat = pb.HeartbeatRequest(
            name=str(FIRST),
            boot_id=BOOT,
            runs=[pb.RunEvidence(agent=str(MAYOR), epoch=1)],
        )
        pulse = await stub.Heartbeat(beat)
        assert [] == list(pulse.lost_agents)
        assert [str(MAYOR)] == list(pulse.pending_agents)


async def listed_again(stub: Any) -> list[str]:
    """The ids of the inbox, as soon as the store answers again."""

    async def attempt() -> list[str]:
        asked = pb.ListMessagesRequest(parent=str(MAYOR))
        try:
            with rpc_errors():
                found = await stub.ListMessages(asked)
        except ServiceError as error:
            if error.reason is not Reason.STORE_UNAVAILABLE:
                raise
            return []
        return [each.name.rpartition("/")[2] for each in found.messages]

    return await wait_until(attempt, what="the store answers again")


class TestRedisAway:
    @pytest.mark.parametrize("how", ["killed", "stopped"])
    async def test_is_said_quickly_and_mends_by_itself(
        self, valkey, registry, tokens: Tokens, how
    ):
        """UNAVAILABLE within the limit, not ready meanwhile, no restart needed."""
        async with grpc.aio.insecure_channel(registry.address) as channel:
            stub, bearer = bare(channel, tokens)
            await stub.RegisterAgent(REGISTER, metadata=bearer)
            await wait_until(lambda: ready(channel))
            hurt(valkey, how)

            for call in (stub.GetAgent(GET, metadata=bearer), None):
                started_at = time.monotonic()
                call = call or stub.RegisterAgent(REGISTER, metadata=bearer)
                error = await refused(call)
                assert Reason.STORE_UNAVAILABLE is error.reason
                assert time.monotonic() - started_at < 3
            await wait_until(lambda: not_ready(channel), limit_s=10)
            heal(valkey, how)

            await wait_until(lambda: ready(channel), limit_s=10)
            await stub.GetAgent(GET, metadata=bearer)

    async def test_ends_no_watch_for_good(self, valkey, registry, connect):
        """A message that comes after Redis is back is heard of."""
        stub = connect(registry)
        await claimed(stub)
        heard: asyncio.Queue[str] = asyncio.Queue(100)
        watching = asyncio.create_task(watch_for_ever(stub, heard))
        assert "" == await asyncio.wait_for(heard.get(), 5)

        valkey.kill()
        valkey.start()
        await answers_again(stub)
        await stub.EnqueueMessage(enqueue("m-1"))

        async with asyncio.timeout(10):
            while await heard.get() != str(MAYOR):
                pass
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


def bare(channel: grpc.aio.Channel, tokens: Tokens) -> tuple[Any, Any]:
    """A stub over gRPC's own channel, which never retries, and the token to send."""
    stub = registry_pb2_grpc.RegistryServiceStub(channel)
    return stub, [("authorization", f"Bearer {tokens.container()}")]


async def answers_again(stub: Any) -> None:
    async def answers() -> bool:
        try:
            await stub.GetAgent(GET)
        except grpc.RpcError:
            return False
        return True

    await wait_until(answers)


async def watch_for_ever(stub: Any, heard: asyncio.Queue[str]) -> None:
    """As a supervisor does: whatever ends the watch, watch again."""
    while True:
        call = stub.WatchMessages(pb.WatchMessagesRequest(parent=PARENT))
        try:
            async for hint in call:
                heard.put_nowait(hint.agent)
        except grpc.RpcError:
            await asyncio.sleep(0.05)


def hurt(valkey: ValkeyProcess, how: str) -> None:
    if how == "killed":
        valkey.kill()
    else:
        os.kill(valkey.pid, signal.SIGSTOP)


def heal(valkey: ValkeyProcess, how: str) -> None:
    if how == "killed":
        valkey.start()
    else:
        os.kill(valkey.pid, signal.SIGCONT)


async def health(channel: grpc.aio.Channel, service: str) -> Any:
    stub = health_pb2_grpc.HealthStub(channel)
    answer = await stub.Check(health_pb2.HealthCheckRequest(service=service))
    return answer.status


async def ready(channel: grpc.aio.Channel) -> bool:
    status = await health(channel, SERVICE)
    return bool(status == health_pb2.HealthCheckResponse.SERVING)


async def not_ready(channel: grpc.aio.Channel) -> bool:
    # The process itself is well all the time: nobody is to restart it.
    alive = await health(channel, "")
    assert health_pb2.HealthCheckResponse.SERVING == alive
    return not await ready(channel)


class TestReplicas:
    async def test_of_the_registry_hear_each_other(
        self, tmp_path, valkey, registry, tokens, connect
    ):
        """A message accepted by one is told to the watchers of the other."""
        with RegistryProcess(tmp_path / "other", valkey.url, tokens) as other:
            await claimed(connect(registry))
            call = connect(registry).WatchMessages(
                pb.WatchMessagesRequest(parent=PARENT)
            )
            assert "" == (await call.read()).agent

            await connect(other).EnqueueMessage(enqueue("m-1"))

            assert str(MAYOR) == (await call.read()).agent
            call.cancel()

    async def test_of_redis_must_have_a_write_before_it_counts(
        self, tmp_path, tokens, connect
    ):
        """Without them NOT_DURABLE, and the same id again is one message."""
        settings = {"port": free_port(), "repl-diskless-sync-delay": "0"}
        with ValkeyProcess(tmp_path / "primary", **settings) as primary:
            registry = RegistryProcess(
                tmp_path / "registry",
                primary.url,
                tokens,
                TOWNKEEPER_REDIS_REPLICAS="1",
            )
            replica = ValkeyProcess(
                tmp_path / "replica", replicaof=f"127.0.0.1 {primary.settings['port']}"
            )
            with registry:
                async with grpc.aio.insecure_channel(registry.address) as channel:
                    stub, bearer = bare(channel, tokens)
                    error = await refused(stub.RegisterAgent(REGISTER, metadata=bearer))
                assert Reason.NOT_DURABLE is error.reason
                stub = connect(registry)
                with replica:
                    await wait_until(
                        lambda: b"state=online" in primary.command("INFO"), limit_s=15
                    )
                    made = await stub.RegisterAgent(REGISTER)
                    first = await stub.EnqueueMessage(enqueue("m-1"))
                    again = await stub.EnqueueMessage(enqueue("m-1"))
        assert "1" == made.agent.etag
        assert (True, False) == (first.created, again.created)


def free_port() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


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
        """Every script finds all its keys in one slot; hints travel too."""
        # A cluster node listens on the port 10,000 above as well.
        port = str(20_000 + int(free_port()) % 10_000)
        settings = {"port": port, "cluster-enabled": "yes"}
        with ValkeyProcess(tmp_path, **settings) as valkey:
            valkey.command("CLUSTER", "ADDSLOTSRANGE", "0", "16383")
            await wait_until(
                lambda: b"cluster_state:ok" in valkey.command("CLUSTER", "INFO")
            )
            url = f"redis://127.0.0.1:{port}?cluster=true"
            with RegistryProcess(tmp_path / "registry", url, tokens) as registry:
                await self.every_call(connect(registry))

    async def every_call(self, stub: Any) -> None:
        epoch = await claimed(stub)
        watch = stub.WatchMessages(pb.WatchMessagesRequest(parent=PARENT))
        assert "" == (await watch.read()).agent
        await stub.EnqueueMessage(enqueue("m-1"))
        assert str(MAYOR) == (await watch.read()).agent
        watch.cancel()
        await stub.Heartbeat(pb.HeartbeatRequest(name=str(FIRST), boot_id=BOOT))
        await stub.AcknowledgeMessage(
            pb.AcknowledgeMessageRequest(
                name=str(message("m-1")),
                epoch=epoch,
                instance=str(FIRST),
                boot_id=BOOT,
                generation=1,
                outcome=resources.Message.STATE_DELIVERED,
            )
        )
        await stub.ListMessages(pb.ListMessagesRequest(parent=str(MAYOR)))
        await stub.ResolveAgent(pb.ResolveAgentRequest(name=str(MAYOR)))
        drain = await stub.AnnounceDrain(pb.AnnounceDrainRequest(parent=PARENT))
        await stub.GetDrainStatus(pb.GetDrainStatusRequest(parent=PARENT))
        await stub.ConfirmReady(
            pb.ConfirmReadyRequest(parent=PARENT, nonce=drain.nonce)
        )
        release = pb.LeaseRelease(agent=str(MAYOR), epoch=epoch)
        await stub.ReleaseAgents(
            pb.ReleaseAgentsRequest(
                instance=str(FIRST), boot_id=BOOT, releases=[release]
            )
        )
        await stub.ListInstances(pb.ListInstancesRequest(parent=PARENT))
        asked = pb.ReleaseInstanceRequest(name=str(FIRST), boot_id=BOOT)
        await stub.ReleaseInstance(asked)
        spec = wire.spec_to_proto(EXEC_SPEC, reveal=True)
        changed = resources.Agent(name=str(MAYOR), spec=spec)
        update = pb.UpdateAgentRequest(agent=changed)
        update.update_mask.paths.append("spec")
        await stub.UpdateAgent(update)
        await stub.ReplaceAgents(pb.ReplaceAgentsRequest(parent=PARENT))
        await stub.ListAgents(pb.ListAgentsRequest(parent=PARENT))
        await stub.DeregisterAgent(pb.DeregisterAgentRequest(name=str(MAYOR)))
