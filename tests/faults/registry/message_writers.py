"""Writers that have messages accepted, whatever happens to Redis, and count them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from services.chassis.channels import StaticToken, open_channel
from services.chassis.tasks import ended
from services.registry import wire
from tests.support.registry_process import RegistryProcess
from tests.support.registry_samples import SPEC
from tests.support.tokens import Tokens
from tests.support.waiting import wait_until
from townkeeper.registry.v1 import registry_pb2 as pb
from townkeeper.registry.v1.registry_pb2_grpc import RegistryServiceStub

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


@dataclass
class Writers:
    """One for each town, at work until `end`."""

    each: list[Writer]
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def begin(self) -> None:
        self.tasks = [asyncio.create_task(one.write()) for one in self.each]

    async def go_on(self) -> None:
        """Returns when each has had more messages accepted."""
        wanted = [len(one.accepted) + MORE for one in self.each]

        def gone_on() -> bool:
            for task in self.tasks:
                if task.done():
                    task.result()
            pairs = zip(self.each, wanted, strict=True)
            return all(len(one.accepted) >= count for one, count in pairs)

        await wait_until(gone_on, what="all go on", limit_s=60)

    async def end(self) -> None:
        """Every message that was accepted is there, once and in order."""
        for task in self.tasks:
            task.cancel()
        results = await asyncio.gather(*self.tasks, return_exceptions=True)
        assert {asyncio.CancelledError} == {type(result) for result in results}
        for one in self.each:
            stored = await one.stored()
            # The last one may have been on its way.
            assert one.accepted == stored[: len(one.accepted)]
            assert len(stored) <= len(one.accepted) + 1


@asynccontextmanager
async def writing(
    url: str, folder: Path, towns: Sequence[str], replicas: int
) -> AsyncIterator[Writers]:
    """Beside a registry that acknowledges what so many replicas have."""
    tokens = Tokens(folder / "tokens")
    environ = {"TOWNKEEPER_REDIS_REPLICAS": str(replicas)}
    with RegistryProcess(folder / "registry", url, tokens, **environ) as registry:
        token = StaticToken(tokens.operator("*"))
        async with open_channel(registry.address, token) as channel:
            stub = RegistryServiceStub(channel)
            writers = Writers([Writer(stub, town) for town in towns])
            writers.begin()
            try:
                yield writers
                await writers.end()
            finally:
                await ended(*writers.tasks)
