"""Calls to other services: what a channel adds to them, and when it tries again."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import structlog

from services.chassis.channels import (
    DEADLINE_S,
    FileToken,
    StaticToken,
    open_channel,
    open_sync_channel,
)
from services.chassis.errors import Reason, ServiceError, rpc_errors
from tests.support.grpc_server import RunningServer, running
from tests.support.shapes import SHAPES, Shapes, about, ask, policy, stub
from tests.support.tokens import Tokens

# gRPC sends limits with three digits at least, rounded up.
ROUNDED_UP_S = 1.0
STREAMS = [shape for shape in SHAPES if shape != "unary_unary"]


class Witness:
    """A behaviour that remembers each call's context, then fails, hangs or neither."""

    def __init__(self, *failures: Reason) -> None:
        self.failures = list(failures)
        self.hang = False
        self.peers: list[str] = []
        self.times_left_s: list[float] = []
        self.metadata: list[dict[str, Any]] = []

    async def __call__(self, context: Any) -> None:
        self.peers.append(context.peer())
        self.times_left_s.append(context.time_remaining())
        self.metadata.append(dict(context.invocation_metadata()))
        if self.hang:
            await asyncio.Event().wait()
        if self.failures:
            raise ServiceError(self.failures.pop(0), "cannot, as the test wanted")


@pytest.fixture
def tokens(tmp_path: Path) -> Tokens:
    return Tokens(tmp_path)


@pytest.fixture
def witness() -> Witness:
    return Witness()


@pytest.fixture
async def server(witness: Witness, tokens: Tokens) -> AsyncIterator[RunningServer]:
    shapes = Shapes(witness)
    async with running(shapes.add_to, policy(), tokens) as server:
        yield server


@pytest.fixture
def channel(server: RunningServer, tokens: Tokens) -> grpc.aio.Channel:
    return server.channel(tokens.container())


class TestRetry:
    async def test_an_outage_is_tried_again(
        self, channel: grpc.aio.Channel, witness: Witness
    ) -> None:
        """A short call that met UNAVAILABLE twice gets through the third time."""
        witness.failures = [Reason.STORE_UNAVAILABLE, Reason.SHUTTING_DOWN]

        assert await ask(channel, "unary_unary") == [about()]
        assert len(witness.peers) == 3

    async def test_five_times_and_no_more(
        self, channel: grpc.aio.Channel, witness: Witness
    ) -> None:
        """An outage that lasts is reported, with the server's own reason."""
        witness.failures = [Reason.STORE_UNAVAILABLE] * 9

        with pytest.raises(ServiceError) as refused, rpc_errors():
            await ask(channel, "unary_unary")

        assert refused.value.reason is Reason.STORE_UNAVAILABLE
        assert len(witness.peers) == 5

    @pytest.mark.parametrize(
        "reason", [Reason.ETAG_MISMATCH, Reason.INTERNAL, Reason.STORAGE_FULL]
    )
    async def test_other_failures_are_final(
        self, channel: grpc.aio.Channel, witness: Witness, reason: Reason
    ) -> None:
        """What trying again cannot help is not tried again."""
        witness.failures = [reason]

        with pytest.raises(ServiceError) as refused, rpc_errors():
            await ask(channel, "unary_unary")

        assert refused.value.reason is reason
        assert len(witness.peers) == 1

    async def test_a_save_is_asked_for_once(self) -> None:
        """Its next try could be answered by a container that never had the state."""
        asked: list[Any] = []

        async def save(request: Any, context: Any) -> None:
            asked.append(request)
            await context.abort(grpc.StatusCode.UNAVAILABLE, "gone")

        server = grpc.aio.server()
        handler: Any = grpc.unary_unary_rpc_method_handler(save)
        name = "townkeeper.supervisor.v1.SupervisorService"
        server.add_generic_rpc_handlers(
            [grpc.method_handlers_generic_handler(name, {"SaveAgent": handler})]
        )
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with open_channel(f"127.0.0.1:{port}") as channel:
            ask_once: Any = channel.unary_unary(f"/{name}/SaveAgent")
            with pytest.raises(grpc.RpcError):
                await ask_once(b"")
        await server.stop(None)

        assert 1 == len(asked)

    @pytest.mark.parametrize("shape", STREAMS)
    async def test_streams_are_never_repeated(
        self, channel: grpc.aio.Channel, witness: Witness, shape: str
    ) -> None:
        """Only the caller knows where a stream may go on."""
        witness.failures = [Reason.STORE_UNAVAILABLE]

        with pytest.raises(ServiceError) as refused, rpc_errors():
            await ask(channel, shape)

        assert refused.value.reason is Reason.STORE_UNAVAILABLE
        assert len(witness.peers) == 1

    async def test_nobody_there_is_an_outage(self) -> None:
        """A service that does not listen is UNAVAILABLE, and soon."""
        async with open_channel("127.0.0.1:1") as channel:
            with pytest.raises(ServiceError) as refused, rpc_errors():
                await ask(channel, "unary_unary")

        assert refused.value.reason is Reason.SERVICE_UNAVAILABLE

    async def test_an_outage_ends_for_us_when_it_ends(
        self, witness: Witness, tokens: Tokens
    ) -> None:
        """However many calls failed meanwhile, the first one to a service that is back
        gets through, though the connection waits between its attempts."""
        shapes = Shapes(witness)
        async with running(shapes.add_to, policy(), tokens) as before:
            address = before.address
        async with open_channel(address, StaticToken(tokens.container())) as channel:
            for _ in range(2):
                calls = (ask(channel, "unary_unary") for _ in range(30))
                failed = await asyncio.gather(*calls, return_exceptions=True)
                assert 30 == sum(isinstance(one, grpc.RpcError) for one in failed)

            async with running(shapes.add_to, policy(), tokens, address=address):
                assert [about()] == await ask(channel, "unary_unary")


class TestDeadline:
    async def test_a_short_call_has_one(
        self, channel: grpc.aio.Channel, witness: Witness
    ) -> None:
        """No unary call waits for ever because somebody forgot to say how long."""
        await ask(channel, "unary_unary")

        assert 0 < witness.times_left_s[0] <= DEADLINE_S + ROUNDED_UP_S

    async def test_the_callers_own_wins(
        self, channel: grpc.aio.Channel, witness: Witness
    ) -> None:
        """A limit that was given is kept."""
        await ask(channel, "unary_unary", timeout=100)

        assert 90 < witness.times_left_s[0] <= 100 + ROUNDED_UP_S

    async def test_passing_it_says_so(
        self, server: RunningServer, tokens: Tokens, witness: Witness
    ) -> None:
        """The caller of a call that took too long gets the reason DEADLINE."""
        witness.hang = True

        with pytest.raises(ServiceError) as refused, rpc_errors():
            await ask(server.channel(tokens.container()), "unary_unary", timeout=0.05)

        assert refused.value.reason is Reason.DEADLINE

    @pytest.mark.parametrize("shape", STREAMS)
    async def test_a_stream_has_none(
        self, channel: grpc.aio.Channel, witness: Witness, shape: str
    ) -> None:
        """A transfer lasts as long as it lasts."""
        await ask(channel, shape)

        assert witness.times_left_s[0] is None or witness.times_left_s[0] > 3600


class TestMetadata:
    @pytest.mark.parametrize("shape", SHAPES)
    async def test_every_shape_carries_the_token(
        self, channel: grpc.aio.Channel, witness: Witness, shape: str
    ) -> None:
        """No kind of call goes out without the credential."""
        await ask(channel, shape)

        assert witness.metadata[0]["authorization"].startswith("Bearer eyJ")

    async def test_a_token_given_with_the_call_wins(
        self, channel: grpc.aio.Channel, witness: Witness, tokens: Tokens
    ) -> None:
        """A gateway passes on its caller's credential instead of its own."""
        header = f"Bearer {tokens.user()}"

        await ask(channel, "unary_unary", metadata=(("authorization", header),))

        assert witness.metadata[0]["authorization"] == header

    async def test_the_request_id_travels_on(
        self, channel: grpc.aio.Channel, witness: Witness
    ) -> None:
        """One id follows a request through all services, so one search finds it."""
        with structlog.contextvars.bound_contextvars(request_id="from-outside"):
            await ask(channel, "unary_unary")

        assert witness.metadata[0]["x-request-id"] == "from-outside"

    async def test_a_token_file_is_read_again(
        self,
        server: RunningServer,
        witness: Witness,
        tokens: Tokens,
        tmp_path: Path,
    ) -> None:
        """A credential that was refreshed on disk is used from the next call on."""
        file = tmp_path / "token"
        file.write_text(tokens.expired())
        async with open_channel(server.address, FileToken(file)) as channel:
            with pytest.raises(ServiceError) as refused, rpc_errors():
                await ask(channel, "unary_unary")
            file.write_text(f"{tokens.container(ttl_s=99)}\n")

            assert await ask(channel, "unary_unary") == [about()]

        assert refused.value.reason is Reason.TOKEN_EXPIRED

    async def test_a_missing_token_file_is_named(
        self, server: RunningServer, tmp_path: Path
    ) -> None:
        """Without its credential a call fails before it leaves."""
        source = FileToken(tmp_path / "nowhere")
        async with open_channel(server.address, source) as channel:
            with pytest.raises(ServiceError, match="nowhere") as refused:
                await ask(channel, "unary_unary")

        assert refused.value.reason is Reason.TOKEN_MISSING


class TestConnections:
    async def test_streams_have_one_of_their_own(
        self, channel: grpc.aio.Channel, witness: Witness
    ) -> None:
        """A long transfer and a heartbeat never share a connection."""
        for shape in SHAPES:
            await ask(channel, shape)

        short, *long = witness.peers
        assert short not in long
        assert len(set(long)) == 1

    async def test_a_proxy_for_the_web_is_passed_by(
        self,
        server: RunningServer,
        tokens: Tokens,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Proxy variables of the environment do not reach calls between services."""
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
        monkeypatch.setenv("no_proxy", "")

        assert await ask(server.channel(tokens.container()), "unary_unary") == [about()]


class TestSynchronous:
    @pytest.fixture
    def address(self, tokens: Tokens, witness: Witness) -> Any:
        """A server in a thread, since the caller blocks its own."""
        loop = asyncio.new_event_loop()
        stop = asyncio.Event()
        addresses: list[str] = []
        ready = threading.Event()

        async def serve() -> None:
            shapes = Shapes(witness)
            async with running(shapes.add_to, policy(), tokens) as server:
                addresses.append(server.address)
                ready.set()
                await stop.wait()

        thread = threading.Thread(target=loop.run_until_complete, args=[serve()])
        thread.start()
        ready.wait(5)
        yield addresses[0]
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        loop.close()

    def test_short_calls_and_streams(
        self, address: str, tokens: Tokens, witness: Witness
    ) -> None:
        """The command line calls all shapes without a loop, with retry and token."""
        witness.failures = [Reason.STORE_UNAVAILABLE]
        with open_sync_channel(address, StaticToken(tokens.container())) as channel:
            assert stub(channel, "unary_unary")(about()) == about()
            assert list(stub(channel, "unary_stream")(about())) == [about()]
            assert stub(channel, "stream_unary")(iter([about()])) == about()
            assert list(stub(channel, "stream_stream")(iter([about()]))) == [about()]

        assert len(witness.peers) == 5

    def test_failures_are_service_errors(self, address: str) -> None:
        """A refusal reads the same with and without asyncio."""
        with (
            open_sync_channel(address) as channel,
            pytest.raises(ServiceError) as refused,
            rpc_errors(),
        ):
            stub(channel, "unary_unary")(about())

        assert refused.value.reason is Reason.TOKEN_MISSING
