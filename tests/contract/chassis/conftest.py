"""Fixtures for tests of what happens around a handler: a server of every shape."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from tests.support.grpc_server import RunningServer, running
from tests.support.shapes import SERVICE, Shapes, policy
from tests.support.tokens import Tokens


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


@pytest.fixture
def channel(server: RunningServer, tokens: Tokens) -> grpc.aio.Channel:
    return server.channel(tokens.container())
