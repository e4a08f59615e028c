"""The registry as a process: what it keeps when things die, and what it says then."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.chassis.errors import Reason, ServiceError, rpc_errors
from services.registry.policy import SERVICE
from tests.support.ports import free_ports
from tests.support.redis_server import ValkeyProcess
from tests.support.registry_process import RegistryProcess
from tests.support.registry_requests import (
    GET,
    PARENT,
    REGISTER,
    bare,
    claimed,
    enqueue,
)
from tests.support.registry_samples import (
    BOOT,
    FIRST,
    MAYOR,
)
from tests.support.registry_server import refused
from tests.support.tokens import Tokens
from tests.support.waiting import wait_until
from townkeeper.registry.v1 import registry_pb2 as pb

pytestmark = [pytest.mark.integration, pytest.mark.timeout(60)]


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

            await refused_quickly(stub.GetAgent(GET, metadata=bearer))
            await refused_quickly(stub.RegisterAgent(REGISTER, metadata=bearer))
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


async def refused_quickly(call: Any) -> None:
    started_at = time.monotonic()
    error = await refused(call)
    assert Reason.STORE_UNAVAILABLE is error.reason
    # The limit for an answer of the store is 2 s.
    assert time.monotonic() - started_at < 3


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
        [port] = free_ports(1)
        settings = {"port": port, "repl-diskless-sync-delay": "0"}
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
