"""B6: small calls against an empty one: how many a second, and how late the last."""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import grpc

from bench import bare
from bench.rows import Goal, Row, compare
from tests.support.plane import PlaneProcess
from townkeeper.registry.v1 import registry_pb2, resources_pb2
from townkeeper.registry.v1.registry_pb2_grpc import RegistryServiceStub

# A town that no container serves: its messages stay where they are.
TOWN: Final = "bench-town"
CONCURRENCY: Final = 16
# An inbox takes 1000 messages that wait: room for 6000 calls a second.
AGENTS: Final = 64
RUNS: Final = 5
RUN_S: Final = 2.0
WARM_S: Final = 0.5
TEXT: Final = "please look at the failing test and tell me what is wrong " * 4

Call = Callable[[int], Awaitable[Any]]

EMPTY: Final = "× empty"
GOALS: Final = {
    "GetAgent": (
        Goal("B6.GetAgent.rate", "rate", 0.5, EMPTY, True),
        Goal("B6.GetAgent.p99", "p99", 3.0, EMPTY, False),
    ),
    "EnqueueMessage": (
        Goal("B6.Enqueue.rate", "rate", 0.3, EMPTY, True),
        Goal("B6.Enqueue.p99", "p99", 3.0, EMPTY, False),
    ),
}


@dataclass(frozen=True, slots=True)
class Load:
    """What a run of one call came to."""

    rate: float
    p99_s: float


def measure(plane: PlaneProcess, bare_address: str) -> Iterator[Row]:
    """All calls in turn, five times over."""
    loads = asyncio.run(_measure(plane, bare_address))
    for name, (rate, p99) in GOALS.items():
        ours, empty = loads[name], loads["Empty"]
        yield compare(rate, [one.rate for one in ours], [one.rate for one in empty])
        yield compare(p99, [one.p99_s for one in ours], [one.p99_s for one in empty])


async def _measure(plane: PlaneProcess, bare_address: str) -> dict[str, list[Load]]:
    bearer = f"Bearer {plane.token('operator', town=TOWN)}"
    metadata = (("authorization", bearer),)
    async with (
        grpc.aio.insecure_channel(bare_address) as empty,
        grpc.aio.insecure_channel(plane.endpoints.registry) as registry,
    ):
        stub: Any = RegistryServiceStub(registry)
        await _register(stub, metadata)
        calls = {"Empty": _empty(empty), **_ours(stub, metadata)}
        for call in calls.values():
            await _load(call, WARM_S)
        loads: dict[str, list[Load]] = {name: [] for name in calls}
        for _ in range(RUNS):
            for name, call in calls.items():
                loads[name].append(await _load(call, RUN_S))
        return loads


def _empty(channel: grpc.aio.Channel) -> Call:
    method: Any = channel.unary_unary(bare.EMPTY)
    return lambda worker: method(b"")


def _ours(stub: Any, metadata: Sequence[tuple[str, str]]) -> dict[str, Call]:
    requests = [registry_pb2.GetAgentRequest(name=_name(i)) for i in range(CONCURRENCY)]
    numbers = itertools.count()

    def enqueue(worker: int) -> Awaitable[Any]:
        number = next(numbers)
        request = registry_pb2.EnqueueMessageRequest(
            parent=_name(number % AGENTS), message_id=f"m-{number}", text=TEXT
        )
        return stub.EnqueueMessage(request, metadata=metadata)  # type: ignore[no-any-return]

    return {
        "GetAgent": lambda worker: stub.GetAgent(requests[worker], metadata=metadata),
        "EnqueueMessage": enqueue,
    }


async def _register(stub: Any, metadata: Sequence[tuple[str, str]]) -> None:
    spec = resources_pb2.AgentSpec(
        rig_id="rig-1",
        role=resources_pb2.ROLE_POLECAT,
        lightweight=True,
        runtime=resources_pb2.RUNTIME_EXEC,
        command=["/bin/true"],
    )
    for number in range(AGENTS):
        request = registry_pb2.RegisterAgentRequest(
            name=_name(number), spec=spec, configure_only=True
        )
        await stub.RegisterAgent(request, metadata=metadata)


async def _load(call: Call, limit_s: float) -> Load:
    """So many workers, each with one call under way at a time."""
    times = list[float]()
    begun = time.perf_counter()

    async def work(worker: int) -> None:
        while (at := time.perf_counter()) < begun + limit_s:
            await call(worker)
            times.append(time.perf_counter() - at)

    await asyncio.gather(*(work(worker) for worker in range(CONCURRENCY)))
    took_s = time.perf_counter() - begun
    times.sort()
    return Load(len(times) / took_s, times[math.ceil(0.99 * len(times)) - 1])


def _name(number: int) -> str:
    return f"towns/{TOWN}/agents/bench-{number}"
