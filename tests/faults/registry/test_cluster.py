"""Primaries of a Redis Cluster die, one after the other, while messages are accepted:
none of those is lost or twice, and the registry is not restarted.

ROUNDS makes it a campaign.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest

from services.chassis.channels import StaticToken, open_channel
from services.registry import wire
from tests.faults.campaign import asked
from tests.support.redis_cluster import ValkeyCluster
from tests.support.registry_process import RegistryProcess
from tests.support.registry_samples import SPEC
from tests.support.tokens import Tokens
from tests.support.waiting import wait_until
from townkeeper.registry.v1 import registry_pb2 as pb
from townkeeper.registry.v1.registry_pb2_grpc import RegistryServiceStub

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]

# On all three primaries.
TOWNS = ("a", "b", "c", "d", "e", "f")
MORE = 20
# Below what an inbox holds.
INBOX = 900
AGAIN_S = 0.05
PASSING = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}


@dataclass
class Writer:
    """Has messages accepted by one town's agents, each repeated until answered."""

    stub: Any
    town: str
    accepted: list[str] = field(default_factory=list)

    async def write(self) -> None:
        """For ever, one after the other."""
        while True:
            place, message = divmod(len(self.accepted), INBOX)
            agent = f"towns/{self.town}/agents/a{place}"
            if not message:
                spec = wire.spec_to_proto(SPEC, reveal=True)
                register = pb.RegisterAgentRequest(name=agent, spec=spec)
                await self._answered(self.stub.RegisterAgent, register)
            enqueue = pb.EnqueueMessageRequest(
                parent=agent, message_id=f"m{message}", text="hello"
            )
            await self._answered(self.stub.EnqueueMessage, enqueue)
            self.accepted.append(f"{agent}/messages/m{message}")

    async def _answered(self, call: Any, request: Any) -> None:
        while True:
            try:
                await call(request)
                return
            except grpc.RpcError as error:
                if error.code() not in PASSING:
                    raise
                await asyncio.sleep(AGAIN_S)

    async def stored(self) -> list[str]:
        """All messages of its agents, in the order of acceptance."""
        found: list[str] = []
        for place in range(len(self.accepted) // INBOX + 1):
            agent, token = f"towns/{self.town}/agents/a{place}", "-"
            while token:
                request = pb.ListMessagesRequest(
                    parent=agent, page_size=500, page_token=token.strip("-")
                )
                reply = await self.stub.ListMessages(request)
                found += [one.name for one in reply.messages]
                token = reply.next_page_token
        return found


@pytest.fixture
def cluster(tmp_path: Path) -> Any:
    with ValkeyCluster(tmp_path / "cluster") as cluster:
        yield cluster


@pytest.fixture
async def writers(
    cluster: ValkeyCluster, tmp_path: Path
) -> AsyncIterator[list[Writer]]:
    tokens = Tokens(tmp_path / "tokens")
    folder = tmp_path / "registry"
    replicas = {"TOWNKEEPER_REDIS_REPLICAS": "1"}
    with RegistryProcess(folder, cluster.url, tokens, **replicas) as registry:
        token = StaticToken(tokens.operator("*"))
        async with open_channel(registry.address, token) as channel:
            yield [Writer(RegistryServiceStub(channel), town) for town in TOWNS]


async def _all_go_on(writers: list[Writer], tasks: list[asyncio.Task[None]]) -> None:
    wanted = [len(writer.accepted) + MORE for writer in writers]

    def gone_on() -> bool:
        for task in tasks:
            if task.done():
                task.result()
        return all(
            len(one.accepted) >= n for one, n in zip(writers, wanted, strict=True)
        )

    await wait_until(gone_on, what="all go on", limit_s=60)


async def test_no_accepted_message_is_lost_with_a_primary(
    cluster: ValkeyCluster, writers: list[Writer]
) -> None:
    """Its replica takes over, it comes back as a replica, and so round and round."""
    rounds, _ = asked(3)
    tasks = [asyncio.create_task(writer.write()) for writer in writers]
    for number in range(rounds):
        town = TOWNS[number % len(TOWNS)]
        dead = await asyncio.to_thread(cluster.kill_primary_of, f"{{{town}}}")
        dead.start()
        await asyncio.to_thread(cluster.wait_whole)
        await _all_go_on(writers, tasks)
    for task in tasks:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)

    assert {asyncio.CancelledError} == {type(result) for result in results}
    for writer in writers:
        stored = await writer.stored()
        # The last one may have been on its way.
        assert writer.accepted == stored[: len(writer.accepted)]
        assert len(stored) <= len(writer.accepted) + 1
