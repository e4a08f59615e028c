"""A server's life: listening, health, introspection, TLS."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from grpc_channelz.v1 import channelz_pb2, channelz_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.chassis import health
from services.chassis.errors import Reason, ServiceError, rpc_errors
from services.chassis.server import BindError, Server, infrastructure_policy
from services.chassis.tls import TlsSettings
from tests.support.certificates import Authority
from tests.support.grpc_server import RunningServer, running
from tests.support.shapes import SERVICE, Shapes, about, ask, policy
from tests.support.tokens import Tokens
from tests.support.waiting import wait_until

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
GRPCURL = Path(sys.executable).with_name("grpcurl")


@pytest.fixture
def tokens(tmp_path: Path) -> Tokens:
    return Tokens(tmp_path)


@pytest.fixture
def shapes() -> Shapes:
    return Shapes()


@pytest.fixture
async def server(shapes: Shapes, tokens: Tokens) -> AsyncIterator[RunningServer]:
    async with running(shapes.add_to, policy(), tokens, [SERVICE]) as server:
        yield server


async def state(server: RunningServer, service: str) -> int:
    stub = health_pb2_grpc.HealthStub(server.bare_channel())
    answer = await stub.Check(health_pb2.HealthCheckRequest(service=service))
    return int(answer.status)


class TestListening:
    async def test_an_occupied_port_is_named(self, tokens: Tokens) -> None:
        """Two servers never share a port; the second says which one is taken."""
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            address = f"127.0.0.1:{taken.getsockname()[1]}"
            server = Server(address, {}, tokens.verifier(), [])

            with pytest.raises(BindError, match=address):
                await server.start()

    async def test_a_second_server_of_ours_is_refused(
        self, server: RunningServer, tokens: Tokens
    ) -> None:
        """Port sharing is off, so calls never go to the wrong process by turns."""
        second = Server(server.address, {}, tokens.verifier(), [])

        with pytest.raises(BindError, match=server.address):
            await second.start()


class TestHealth:
    async def test_needs_no_token(self, server: RunningServer) -> None:
        """Probes carry no credentials."""
        assert await state(server, "") == SERVING
        assert await state(server, SERVICE) == SERVING

    async def test_lists_all_services(self, server: RunningServer) -> None:
        """List gives every state in one call."""
        stub = health_pb2_grpc.HealthStub(server.bare_channel())

        answer = await stub.List(health_pb2.HealthListRequest())

        assert {k: v.status for k, v in answer.statuses.items()} == {
            "": SERVING,
            SERVICE: SERVING,
        }

    async def test_an_unknown_service_is_not_found(self, server: RunningServer) -> None:
        """A probe with a typing mistake fails instead of passing for ever."""
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await state(server, "townkeeper.misspelt")

        assert failed.value.code() is grpc.StatusCode.NOT_FOUND

    async def test_follows_the_checks(
        self, shapes: Shapes, tokens: Tokens, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A failing check takes the service out, not the process; it comes back too."""
        monkeypatch.setattr(health, "CHECK_EVERY_S", 0.01)
        broken = True

        async def check() -> None:
            if broken:
                raise ServiceError(Reason.STORE_UNAVAILABLE, "cannot reach it")

        async with running(shapes.add_to, policy(), tokens, [SERVICE]) as server:
            server.server.health.register("store", check)
            await wait_until(lambda: not server.server.health.ready)

            assert await state(server, SERVICE) == NOT_SERVING
            assert await state(server, "") == SERVING
            assert server.server.health.failing == {"store": "cannot reach it"}
            broken = False
            await wait_until(lambda: server.server.health.ready)
            assert await state(server, SERVICE) == SERVING

    async def test_a_watch_sees_the_stop_coming(
        self, shapes: Shapes, tokens: Tokens
    ) -> None:
        """Who watches health learns of a stop before calls are refused."""
        async with running(shapes.add_to, policy(), tokens, [SERVICE]) as server:
            stub = health_pb2_grpc.HealthStub(server.bare_channel())
            watch = stub.Watch(health_pb2.HealthCheckRequest(service=SERVICE))
            assert (await watch.read()).status == SERVING

            stopping = asyncio.create_task(server.server.stop())

            assert (await watch.read()).status == NOT_SERVING
            await stopping


class TestIntrospection:
    async def test_grpcurl_lists_without_a_token(self, server: RunningServer) -> None:
        """Reflection is open, so a stranger to the protos can find out what is here."""
        listed = await _grpcurl(server.address, "list")

        assert listed.split() == [
            "grpc.channelz.v1.Channelz",
            "grpc.health.v1.Health",
            "grpc.reflection.v1alpha.ServerReflection",
            SERVICE,
        ]

    async def test_channelz_is_for_operators(
        self, server: RunningServer, tokens: Tokens
    ) -> None:
        """Addresses of all peers are nobody else's business."""
        request = channelz_pb2.GetServersRequest()
        operator = channelz_pb2_grpc.ChannelzStub(server.channel(tokens.operator()))
        container = channelz_pb2_grpc.ChannelzStub(server.channel(tokens.container()))

        assert (await operator.GetServers(request)).server
        with pytest.raises(ServiceError) as refused, rpc_errors():
            await container.GetServers(request)
        assert refused.value.reason is Reason.ROLE_INSUFFICIENT

    def test_every_method_of_ours_has_a_row(self) -> None:
        """Health, reflection and channelz are in the policy like any service."""
        assert {name.split("/")[2] for name in infrastructure_policy()} == {
            "Check",
            "List",
            "Watch",
            "ServerReflectionInfo",
            "GetTopChannels",
            "GetServers",
            "GetServer",
            "GetServerSockets",
            "GetChannel",
            "GetSubchannel",
            "GetSocket",
        }


class TestTls:
    @pytest.fixture
    def authority(self, tmp_path: Path) -> Authority:
        return Authority(tmp_path / "tls")

    async def test_peers_of_one_authority_talk(
        self, authority: Authority, shapes: Shapes, tokens: Tokens
    ) -> None:
        """Both sides prove themselves with certificates of the same authority."""
        tls = authority.issue("both")
        async with running(shapes.add_to, policy(), tokens, tls=tls) as server:
            channel = server.channel(tokens.container(), tls=tls)

            assert await ask(channel, "unary_unary") == [about()]

    async def test_a_stranger_is_not_served(
        self, authority: Authority, shapes: Shapes, tokens: Tokens
    ) -> None:
        """A valid token does not help where the certificate is missing."""
        tls = authority.issue("server")
        without = TlsSettings(cert=None, key=None, ca=tls.ca)
        async with running(shapes.add_to, policy(), tokens, tls=tls) as server:
            channel = server.channel(tokens.container(), tls=without)

            with pytest.raises(ServiceError) as refused, rpc_errors():
                await ask(channel, "unary_unary")

        assert refused.value.reason is Reason.SERVICE_UNAVAILABLE
        assert shapes.calls == 0


async def _grpcurl(address: str, *words: str) -> str:
    process = await asyncio.create_subprocess_exec(
        str(GRPCURL), "-plaintext", address, *words, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    return output.decode()
