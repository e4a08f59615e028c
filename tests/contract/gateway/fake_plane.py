"""A gateway and the fakes behind it, serving from a thread of their own."""

from __future__ import annotations

import asyncio
import functools
import http.client
import threading
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

from services.chassis.tls import TlsSettings
from services.gateway.app import Gateway
from services.gateway.clients import Services
from services.gateway.listener import Listener
from tests.contract.gateway import fake_registry, fake_snapshots, fake_supervisor
from tests.contract.gateway.gateway_process import GatewayProcess
from tests.support.grpc_server import RunningServer, running
from tests.support.tokens import Tokens, revocations
from townkeeper.registry.v1 import registry_pb2_grpc
from townkeeper.snapshots.v1 import snapshots_pb2_grpc
from townkeeper.supervisor.v1 import supervisor_pb2_grpc

START_S = 10.0


class Fakes:
    """The three services in memory, and the tokens that they believe."""

    def __init__(self, folder: Path) -> None:
        self.tokens = Tokens(folder)
        files = folder / "files"
        files.mkdir()
        # They answer what the gateway calls; the rest says UNIMPLEMENTED.
        self.registry = fake_registry.FakeRegistry()  # type: ignore[abstract]
        self.snapshots = fake_snapshots.FakeSnapshots(files)  # type: ignore[abstract]
        self.supervisor = fake_supervisor.FakeSupervisor(  # type: ignore[abstract]
            self.registry
        )

    def reset(self) -> None:
        self.registry.reset()
        self.snapshots.reset()
        self.supervisor.reset()

    async def serve(self, stack: AsyncExitStack) -> tuple[str, str]:
        """Starts all three; returns the addresses of registry and snapshots."""
        parts: list[tuple[Any, Any, Any]] = [
            (
                registry_pb2_grpc.add_RegistryServiceServicer_to_server,
                self.registry,
                fake_registry,
            ),
            (
                snapshots_pb2_grpc.add_SnapshotServiceServicer_to_server,
                self.snapshots,
                fake_snapshots,
            ),
            (
                supervisor_pb2_grpc.add_SupervisorServiceServicer_to_server,
                self.supervisor,
                fake_supervisor,
            ),
        ]
        servers: list[RunningServer] = []
        for add, servicer, module in parts:
            server = running(
                functools.partial(add, servicer),
                module.POLICY,
                self.tokens,
                [module.SERVICE],
            )
            servers.append(await stack.enter_async_context(server))
        self.registry.supervisor = servers[2].address
        self.registry.reset()
        return servers[0].address, servers[1].address


class FakePlane(Fakes):
    """`with FakePlane(folder) as plane:` serves; requests are synchronous.

    With `apart` the gateway is a process of its own, started as it is in production.
    """

    def __init__(self, folder: Path, *, apart: bool = False) -> None:
        super().__init__(folder)
        self.url = ""
        self.process: GatewayProcess | None = None
        self._apart = apart
        self._addresses = ("", "")
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="plane", daemon=True)

    def __enter__(self) -> FakePlane:
        self._thread.start()
        assert self._ready.wait(START_S), "the plane did not start"
        if self._apart:
            self.process = GatewayProcess(*self._addresses, self.tokens.folder)
            self.url = self.process.start()
        self._client = httpx.Client(base_url=self.url, trust_env=False, timeout=15)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._client.close()
        if self.process is not None:
            self.process.stop()
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(START_S)
        assert not self._thread.is_alive(), "the plane did not stop"

    def request(
        self, method: str, path: str, token: str = "", **options: Any
    ) -> httpx.Response:
        """One request with a bearer token, or with none."""
        headers = dict(options.pop("headers", {}))
        if token:
            headers["authorization"] = f"Bearer {token}"
        return self._client.request(method, path, headers=headers, **options)

    def stream(self, method: str, path: str, token: str) -> Iterator[bytes]:
        """The body of an answer, as it comes."""
        headers = {"authorization": f"Bearer {token}"}
        with self._client.stream(method, path, headers=headers) as response:
            assert response.is_success
            yield from response.iter_raw()

    def raw(self, method: str, path: str, token: str = "") -> tuple[int, bytes]:
        """A request whose path is sent as it is, without a client's tidying."""
        host = self.url.removeprefix("http://")
        connection = http.client.HTTPConnection(host, timeout=10)
        try:
            connection.putrequest(method, path, skip_accept_encoding=True)
            if token:
                connection.putheader("authorization", f"Bearer {token}")
            connection.endheaders()
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
            self._loop.close()

    async def _serve(self) -> None:
        async with AsyncExitStack() as stack:
            self._addresses = await self.serve(stack)
            if self._apart:
                self._ready.set()
                await self._stop.wait()
                return
            services = Services(*self._addresses)
            stack.push_async_callback(services.close)
            listener = Listener("127.0.0.1:0", TlsSettings())
            server = listener.server(
                Gateway(services, self.tokens.verifier(revocations=revocations()))
            )
            serving = asyncio.create_task(server.serve())
            self.url = listener.url
            while not server.started:
                await asyncio.sleep(0.01)
            self._ready.set()
            await self._stop.wait()
            server.stop()
            await serving


def call_as_user(
    plane: FakePlane, method: str, path: str, json: Any = None, **options: Any
) -> httpx.Response:
    """A request of a user of town-1, with a JSON body or with none."""
    if json is not None:
        options["json"] = json
    return plane.request(method, path, plane.tokens.user(), **options)
