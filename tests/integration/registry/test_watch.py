"""Watching the agents of a real registry: a thousand watchers, large towns, deaths."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest

from services.chassis.errors import ServiceError
from services.chassis.names import AgentName
from services.registry import wire
from tests.support.registry_process import RegistryProcess
from tests.support.registry_requests import PARENT, REGISTER, claimed, enqueue
from tests.support.registry_samples import MAYOR, SPEC
from tests.support.tokens import TOWN
from tests.support.waiting import wait_until
from townkeeper.registry.v1 import registry_pb2 as pb

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

WATCHERS = 1_000
WATCHERS_BYTES_MAX = 64 * 1024 * 1024
TOWN_AGENTS = 5_000
ANSWER_BYTES_MAX = 1024 * 1024
SPEC_MESSAGE = wire.spec_to_proto(SPEC, reveal=True)


def watch(stub: Any, resume_token: str = "") -> Any:
    return stub.WatchAgents(
        pb.WatchAgentsRequest(parent=PARENT, resume_token=resume_token)
    )


async def listed(call: Any) -> list[pb.WatchAgentsResponse]:
    """All steps up to `synced`."""
    steps: list[pb.WatchAgentsResponse] = []
    while not (steps and steps[-1].synced):
        steps.append(await call.read())
    return steps


async def heard(call: Any, messages: int) -> None:
    """Reads on until the agent has so many, past what else may change: a lease that
    runs out while all this takes its time."""
    seen = 0
    while seen != messages:
        step = await call.read()
        if step.changed.name == str(MAYOR):
            seen = step.changed.pending_messages_count
            assert seen <= messages


async def register(stub: Any, count: int) -> None:
    """Makes so many agents, some at once."""
    names = iter([str(AgentName(TOWN, f"a-{n}")) for n in range(count)])

    async def worker() -> None:
        for name in names:
            request = pb.RegisterAgentRequest(name=name, spec=SPEC_MESSAGE)
            await stub.RegisterAgent(request)

    await asyncio.gather(*(worker() for _ in range(16)))


def memory_bytes(registry: RegistryProcess) -> int:
    return int(psutil.Process(registry.pid).memory_info().rss)


class Follower:
    """Watches for ever, as a client does: whatever ends the watch, goes on behind."""

    def __init__(self, stub: Any) -> None:
        self.messages: list[int] = []
        self.ends: list[ServiceError] = []
        self.token = ""
        self._stub = stub

    async def follow(self) -> None:
        while True:
            try:
                async for step in watch(self._stub, self.token):
                    self.token = step.resume_token
                    if step.changed.name:
                        self.messages.append(step.changed.pending_messages_count)
            except grpc.RpcError as error:
                self.ends.append(ServiceError.from_rpc(error))
                await asyncio.sleep(0.05)

    async def hears_of(self, count: int) -> None:
        what = f"{count} messages are told of"
        await wait_until(lambda: self.messages[-1] == count, what=what, limit_s=15)


async def test_a_thousand_watchers_take_little_and_hear_all(registry, connect):
    """Each gets each change; the process grows by less than 64 MiB for all of them."""
    stub = connect(registry)
    await register(stub, 20)
    await claimed(stub)
    first = watch(stub)
    await listed(first)
    before = memory_bytes(registry)

    calls = [watch(stub) for _ in range(WATCHERS)]
    lists = await asyncio.gather(*map(listed, calls))
    grown = [memory_bytes(registry) - before]
    for number in range(1, 11):
        await stub.EnqueueMessage(enqueue(f"m-{number}"))
        await asyncio.gather(*(heard(call, number) for call in calls))
        grown.append(memory_bytes(registry) - before)

    assert {22} == {len(steps) for steps in lists}
    assert max(grown) < WATCHERS_BYTES_MAX
    for call in calls:
        call.cancel()


async def test_a_town_of_five_thousand_is_listed(registry, connect):
    """In small answers, each agent once; then its changes come."""
    stub = connect(registry)
    await register(stub, TOWN_AGENTS)

    call = watch(stub)
    steps = await listed(call)
    await stub.RegisterAgent(REGISTER)

    assert TOWN_AGENTS == len({step.changed.name for step in steps} - {""})
    assert TOWN_AGENTS + 1 == len(steps)
    assert max(step.ByteSize() for step in steps) < ANSWER_BYTES_MAX
    assert str(MAYOR) == (await call.read()).changed.name


@pytest.mark.parametrize("who", ["registry", "redis"])
async def test_a_death_makes_no_gap(registry, valkey, connect, who):
    """Whoever goes on by the last token is told every later state, and none twice."""
    stub = connect(registry)
    await claimed(stub)
    follower = Follower(stub)
    following = asyncio.create_task(follower.follow())
    await wait_until(lambda: follower.messages)

    number = 0
    for round_ in range(1, 4):
        while number < 5 * round_:
            number += 1
            await stub.EnqueueMessage(enqueue(f"m-{number}"))
        process = registry if who == "registry" else valkey
        process.kill()
        process.start()
        number += 1
        await accepted(stub, f"m-{number}")
        await follower.hears_of(number)

    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    assert sorted(set(follower.messages)) == follower.messages
    assert {"UNAVAILABLE"} >= {end.code.name for end in follower.ends}
    if who == "registry":
        assert len(follower.ends) >= 3


async def accepted(stub: Any, message_id: str) -> None:
    """Sends a message until it is taken: the id makes it one."""

    async def sent() -> bool:
        try:
            await stub.EnqueueMessage(enqueue(message_id))
        except grpc.RpcError:
            return False
        return True

    await wait_until(sent, limit_s=15)


async def test_replicas_tell_of_each_others_changes(
    tmp_path: Path, valkey, registry, tokens, connect
):
    """And take each other's tokens."""
    with RegistryProcess(tmp_path / "other", valkey.url, tokens) as other:
        await claimed(connect(registry))
        call = watch(connect(registry))
        token = (await listed(call))[-1].resume_token

        await connect(other).EnqueueMessage(enqueue("m-1"))

        step = await call.read()
        assert 1 == step.changed.pending_messages_count
        assert step == await watch(connect(other), token).read()
