"""Signing keys are replaced under load: nobody is refused, over gRPC or HTTP."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import httpx
import pytest

from services.chassis.access import Kind
from services.chassis.channels import open_channel
from services.chassis.errors import Code, ServiceError
from services.chassis.keys import KeyRing
from tests.support.plane import PlaneProcess
from tests.support.waiting import wait_until
from townkeeper.registry.v1 import registry_pb2 as pb
from townkeeper.registry.v1.registry_pb2_grpc import RegistryServiceStub

if TYPE_CHECKING:
    from townkeeper.registry.v1.registry_pb2_grpc import RegistryServiceAsyncStub

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

# Calls a second. Only how much there is to do: no time decides the test.
RATE = 200
# Seen on each way before the next step.
ENOUGH = 100
AT_ONCE = 64


@dataclass
class Load:
    """Calls with tokens minted just now, and with one from before it all."""

    plane: PlaneProcess
    old: str
    answered: Counter[tuple[str, str]] = field(default_factory=Counter)
    refused: list[str] = field(default_factory=list)

    async def run(self) -> None:
        address = self.plane.endpoints.registry
        async with (
            open_channel(address) as channel,
            httpx.AsyncClient(base_url=self.plane.endpoints.http, timeout=60) as http,
            asyncio.TaskGroup() as calls,
        ):
            stub: RegistryServiceAsyncStub = RegistryServiceStub(channel)
            room = asyncio.Semaphore(AT_ONCE)
            for number in itertools.count():
                kid, token = self._token(number)
                call = (
                    self._by_grpc(stub, kid, token)
                    if number % 2
                    else self._by_http(http, kid, token)
                )
                await room.acquire()
                calls.create_task(call).add_done_callback(lambda _: room.release())
                await asyncio.sleep(1 / RATE)

    def _token(self, number: int) -> tuple[str, str]:
        if number % 4 < 2:
            return "old", self.old
        ring = KeyRing.load(self.plane.data.keys)
        return ring.kid, ring.mint(Kind.CONTAINER, town=self.plane.town, ttl_s=60)

    async def _by_grpc(
        self, stub: RegistryServiceAsyncStub, kid: str, token: str
    ) -> None:
        request = pb.ListAgentsRequest(parent=f"towns/{self.plane.town}")
        metadata = (("authorization", f"Bearer {token}"),)
        try:
            await stub.ListAgents(request, metadata=metadata)
        except Exception as error:
            found = ServiceError.from_rpc(error)  # type: ignore[arg-type]
            if found.code in {Code.UNAUTHENTICATED, Code.PERMISSION_DENIED}:
                self.refused.append(f"grpc {kid} {found.reason}")
            return
        self.answered["grpc", kid] += 1

    async def _by_http(self, http: httpx.AsyncClient, kid: str, token: str) -> None:
        path = f"/api/towns/{self.plane.town}/container-registry"
        headers = {"authorization": f"Bearer {token}"}
        answer = await http.get(path, headers=headers)
        if answer.status_code in {401, 403}:
            self.refused.append(f"http {kid} {answer.text}")
        if answer.status_code == 200:
            self.answered["http", kid] += 1

    async def enough(self, kid: str) -> None:
        """Waits until so many calls of this key were answered on both ways."""

        def answered() -> bool:
            ways = [self.answered[way, kid] for way in ("grpc", "http")]
            return bool(self.refused) or min(ways) >= ENOUGH

        await wait_until(answered, what=f"calls with {kid}", limit_s=60)


@asynccontextmanager
async def under_load(plane: PlaneProcess) -> AsyncIterator[Load]:
    load = Load(plane, plane.token("container"))
    running = asyncio.create_task(load.run())
    try:
        yield load
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def rotated(plane: PlaneProcess, *arguments: str) -> str:
    """The key id that `townkeeper keys rotate` made."""
    await asyncio.to_thread(plane.run, "keys", "rotate", *arguments)
    return KeyRing.load(plane.data.keys).keys[-1][0]


async def test_keys_are_replaced_without_a_single_refusal(plane: PlaneProcess) -> None:
    """One key published and then signing by itself, one told to sign at once; tokens
    of the first key count until it is removed, and from then on no more."""
    async with under_load(plane) as load:
        await load.enough(KeyRing.load(plane.data.keys).kid)

        await load.enough(await rotated(plane, "--lead", "3s"))
        await load.enough(await rotated(plane, "--now"))
        before = load.answered["grpc", "old"]
        await wait_until(
            lambda: load.answered["grpc", "old"] >= before + ENOUGH or load.refused
        )

        assert [] == load.refused
        assert load.answered["http", "old"] >= ENOUGH

        await asyncio.to_thread(plane.run, "keys", "prune", "--all")
        # Now it must be refused: the test would notice a refusal.
        await wait_until(lambda: load.refused, what="the old key is forgotten")

    assert {"old"} == {line.split()[1] for line in load.refused}
