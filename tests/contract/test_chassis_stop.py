"""How a server ends: calls in progress, watches, signals."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import grpc
import pytest

from services.chassis.auth import Kind, rule
from services.chassis.errors import Reason, ServiceError, rpc_errors
from tests.support.grpc_server import running
from tests.support.shapes import RESPONSE_STREAMS, Shapes, about, ask, policy
from tests.support.tokens import Tokens
from tests.support.waiting import wait_until


@pytest.fixture
def tokens(tmp_path: Path) -> Tokens:
    return Tokens(tmp_path)


@pytest.fixture
def shapes() -> Shapes:
    return Shapes()


class Held:
    """A behaviour that begins, then waits to be let go."""

    def __init__(self) -> None:
        self.began = asyncio.Event()
        self.go_on = asyncio.Event()

    async def __call__(self, context: Any) -> None:
        self.began.set()
        await self.go_on.wait()


class TestStop:
    async def test_waits_for_calls_in_progress(
        self, shapes: Shapes, tokens: Tokens
    ) -> None:
        """A call that was let in gets its answer."""
        shapes.behave = held = Held()
        async with running(shapes.add_to, policy(), tokens) as server:
            call = asyncio.create_task(
                ask(server.channel(tokens.container()), "unary_unary")
            )
            await held.began.wait()

            stopping = asyncio.create_task(server.server.stop(grace_s=10))
            await wait_until(lambda: server.server.gate.closed)
            held.go_on.set()
            await stopping

            assert await call == [about()]
            assert server.server.in_flight == 0

    async def test_refuses_new_calls_meanwhile(
        self, shapes: Shapes, tokens: Tokens
    ) -> None:
        """A stopping server says so, with a code that clients retry elsewhere."""
        shapes.behave = held = Held()
        async with running(shapes.add_to, policy(), tokens) as server:
            channel = server.bare_channel()
            credentials = (("authorization", f"Bearer {tokens.container()}"),)
            call = asyncio.create_task(
                ask(channel, "unary_unary", metadata=credentials)
            )
            await held.began.wait()
            stopping = asyncio.create_task(server.server.stop(grace_s=10))
            await wait_until(lambda: server.server.gate.closed)

            with pytest.raises(ServiceError) as refused, rpc_errors():
                await ask(channel, "unary_unary", metadata=credentials)
            held.go_on.set()

            assert refused.value.reason is Reason.SHUTTING_DOWN
            assert await call == [about()]
            await stopping

    @pytest.mark.parametrize("shape", RESPONSE_STREAMS)
    async def test_ends_watches_at_once(
        self, shape: str, shapes: Shapes, tokens: Tokens
    ) -> None:
        """A stream that would last for ever does not use up the grace."""
        shapes.behave = held = Held()
        rows = policy(rule(Kind.CONTAINER, watch=True))
        async with running(shapes.add_to, rows, tokens) as server:
            watch = asyncio.create_task(ask(server.channel(tokens.container()), shape))
            await held.began.wait()

            await asyncio.wait_for(server.server.stop(grace_s=3600), 5)

            with pytest.raises(ServiceError) as ended, rpc_errors():
                await watch
            assert ended.value.reason is Reason.SHUTTING_DOWN

    async def test_a_watch_that_is_being_written_is_told_why(
        self, shapes: Shapes, tokens: Tokens
    ) -> None:
        """The stop waits for the message that is on its way, then says what it is."""
        rows = policy(rule(Kind.CONTAINER, watch=True))
        async with running(shapes.add_to, rows, tokens) as server:

            async def flood(request: Any, context: Any) -> AsyncGenerator[Any, None]:
                server.server.gate.close()
                while True:
                    yield request

            shapes.flood = flood
            with pytest.raises(ServiceError) as ended, rpc_errors():
                await ask(server.channel(tokens.container()), "unary_stream")

        assert ended.value.reason is Reason.SHUTTING_DOWN

    async def test_cuts_what_outlasts_the_grace(
        self, shapes: Shapes, tokens: Tokens
    ) -> None:
        """A handler that never ends holds the stop up for the grace and no longer."""
        shapes.behave = held = Held()
        async with running(shapes.add_to, policy(), tokens) as server:
            call = asyncio.create_task(
                ask(server.channel(tokens.container()), "stream_stream")
            )
            await held.began.wait()

            await asyncio.wait_for(server.server.stop(grace_s=0.05), 5)

            with pytest.raises(grpc.aio.AioRpcError):
                await call
            assert server.server.in_flight == 0


SCRIPT = """
import asyncio, sys
from pathlib import Path
from services.chassis.auth import Verifier
from services.chassis.keys import KeyRing
from services.chassis.server import Server, run_until_signal
from services.chassis.telemetry import configure_logging

async def farewell():
    print("farewell", flush=True)
    if "slow" in sys.argv:
        await asyncio.Event().wait()

async def begin(port):
    print("beginning", flush=True)
    if "broken" in sys.argv:
        raise ValueError("cannot begin")
    if "waiting" in sys.argv:
        await asyncio.Event().wait()

async def main():
    KeyRing.create(Path(sys.argv[1]))
    server = Server("127.0.0.1:0", {}, Verifier.from_directory(Path(sys.argv[1])), [])
    on_start = begin if {"broken", "waiting"} & set(sys.argv) else None
    await run_until_signal(server, farewell, on_start=on_start)

configure_logging("test")
try:
    asyncio.run(main())
except ValueError as error:
    sys.exit(str(error))
"""


class TestRunUntilSignal:
    @pytest.fixture
    def start(self, tmp_path: Path) -> Any:
        def start(*words: str) -> subprocess.Popen[str]:
            command = [sys.executable, "-c", SCRIPT, str(tmp_path / "keys"), *words]
            return subprocess.Popen(
                command,
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=Path(__file__).parents[2],
                env={**os.environ, "PYTHONPATH": "."},
            )

        return start

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_stops_in_order(self, start: Any, number: signal.Signals) -> None:
        """Prints that it is ready, runs the farewell on a signal, and exits with 0."""
        with start() as process:
            ready = process.stdout.readline()
            process.send_signal(number)
            rest = process.stdout.read()

        assert ready.startswith("ready grpc://127.0.0.1:")
        assert (rest, process.returncode) == ("farewell\n", 0)

    def test_a_second_signal_cuts_it_short(self, start: Any) -> None:
        """Who asks twice does not wait for a farewell that hangs."""
        with start("slow") as process:
            process.stdout.readline()
            process.terminate()
            process.stdout.readline()
            process.terminate()

            assert process.wait(10) == 0

    def test_a_beginning_that_waits_is_ended_by_a_signal(self, start: Any) -> None:
        """A service that waits for another one is not yet ready, and can be stopped."""
        with start("waiting") as process:
            assert "beginning\n" == process.stdout.readline()
            process.terminate()
            rest, _ = process.communicate(timeout=10)

        assert (rest, process.returncode) == ("farewell\n", 0)

    def test_a_beginning_that_fails_ends_the_server(self, start: Any) -> None:
        """With its own complaint, and none of a server that nobody stopped."""
        with start("broken") as process:
            out, complaint = process.communicate(timeout=10)

        assert ("beginning\n", 1) == (out, process.returncode)
        assert "cannot begin" == complaint.splitlines()[-1]
        assert "Traceback" not in complaint
