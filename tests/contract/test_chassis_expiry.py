"""A watch ends with the token that it was begun with."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from services.chassis import auth
from services.chassis.auth import Kind, rule
from services.chassis.errors import Reason, ServiceError, rpc_errors
from tests.support.grpc_server import running
from tests.support.shapes import RESPONSE_STREAMS, Shapes, about, ask, policy
from tests.support.tokens import Tokens

WATCH = policy(rule(Kind.CONTAINER, watch=True))


@pytest.fixture
def tokens(tmp_path: Path) -> Tokens:
    return Tokens(tmp_path)


@pytest.mark.parametrize("shape", RESPONSE_STREAMS)
async def test_a_silent_watch_ends_when_its_token_does(
    shape: str, tokens: Tokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing has to be sent for that."""
    monkeypatch.setattr(auth, "LEEWAY_S", 0.5)

    async def silence(context: Any) -> None:
        await asyncio.Event().wait()

    token = tokens.container(ttl_s=1)
    async with running(Shapes(silence).add_to, WATCH, tokens) as server:
        with pytest.raises(ServiceError) as ended, rpc_errors():
            await asyncio.wait_for(ask(server.channel(token), shape), 5)

    assert Reason.TOKEN_EXPIRED is ended.value.reason


async def test_a_watch_that_speaks_is_looked_at_with_each_word(
    tokens: Tokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the time of day, which may have jumped since the call began."""
    shapes = Shapes()

    async def flood(request: Any, context: Any) -> AsyncGenerator[Any, None]:
        yield request
        monkeypatch.setattr(auth, "LEEWAY_S", -3600.0)
        while True:
            yield request

    shapes.flood = flood
    token = tokens.container(ttl_s=60)
    async with running(shapes.add_to, WATCH, tokens) as server:
        with pytest.raises(ServiceError) as ended, rpc_errors():
            await asyncio.wait_for(
                ask(server.channel(token), "unary_stream", about()), 5
            )

    assert Reason.TOKEN_EXPIRED is ended.value.reason
