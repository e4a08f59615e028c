"""A Valkey, a registry beside it, and stubs to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from services.chassis.channels import StaticToken, open_channel
from tests.support.redis_server import ValkeyProcess
from tests.support.registry_process import RegistryProcess
from tests.support.tokens import Tokens
from townkeeper.registry.v1 import registry_pb2_grpc


@pytest.fixture
def tokens(tmp_path: Path) -> Tokens:
    return Tokens(tmp_path)


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[ValkeyProcess]:
    with ValkeyProcess(tmp_path) as process:
        yield process


@pytest.fixture
def registry(
    tmp_path: Path, valkey: ValkeyProcess, tokens: Tokens
) -> Iterator[RegistryProcess]:
    with RegistryProcess(tmp_path / "registry", valkey.url, tokens) as process:
        yield process


@pytest.fixture
async def connect(tokens: Tokens) -> AsyncIterator[Callable[[RegistryProcess], Any]]:
    """Process → a stub with a container's token."""
    channels = []

    def open_stub(process: RegistryProcess) -> Any:
        channel = open_channel(process.address, StaticToken(tokens.container()))
        channels.append(channel)
        return registry_pb2_grpc.RegistryServiceStub(channel)

    yield open_stub
    for channel in channels:
        await channel.close()
