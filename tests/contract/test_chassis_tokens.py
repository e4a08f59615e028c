"""Every credential against a server: who gets in, and what everybody else is told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from services.chassis.auth import Kind, rule
from services.chassis.errors import Reason, ServiceError, rpc_errors
from tests.support.grpc_server import RunningServer, running
from tests.support.shapes import SHAPES, Shapes, about, ask, policy
from tests.support.tokens import (
    AGENT,
    FOREIGN_TOWN,
    MALFORMED,
    OTHER_AGENT,
    TOWN,
    Tokens,
)

# How to make each bad credential, and what the server says to it.
BAD = [
    pytest.param(Tokens.expired, Reason.TOKEN_EXPIRED, id="expired"),
    pytest.param(Tokens.foreign_key, Reason.TOKEN_INVALID, id="foreign key"),
    pytest.param(Tokens.foreign_key_known_kid, Reason.TOKEN_INVALID, id="stolen kid"),
    pytest.param(Tokens.wrong_audience, Reason.TOKEN_INVALID, id="wrong audience"),
    pytest.param(Tokens.no_audience, Reason.TOKEN_INVALID, id="no audience"),
    pytest.param(Tokens.algorithm_none, Reason.TOKEN_INVALID, id="alg none"),
    pytest.param(Tokens.unsigned, Reason.TOKEN_INVALID, id="unsigned"),
    pytest.param(Tokens.hs256_with_public_key, Reason.TOKEN_INVALID, id="hs256"),
    pytest.param(Tokens.tampered, Reason.TOKEN_INVALID, id="tampered"),
    pytest.param(Tokens.oversized, Reason.TOKEN_INVALID, id="oversized"),
]

ALL_KINDS = list(Kind)
# What a valid credential of each kind may reach, when the method is open to its kind.
REACH = {
    "own agent": (AGENT, TOWN, set(Kind)),
    "other agent": (OTHER_AGENT, TOWN, set(Kind) - {Kind.AGENT}),
    "other town": (AGENT, FOREIGN_TOWN, set()),
}


@pytest.fixture
def tokens(tmp_path: Path) -> Tokens:
    return Tokens(tmp_path)


@pytest.fixture
def shapes() -> Shapes:
    return Shapes()


@pytest.fixture
async def server(shapes: Shapes, tokens: Tokens) -> AsyncIterator[RunningServer]:
    async with running(shapes.add_to, policy(), tokens) as server:
        yield server


async def reason_of(
    channel: grpc.aio.Channel, shape: str, agent: str, town: str
) -> str:
    """Why the call was refused, or OK."""
    try:
        with rpc_errors():
            await ask(channel, shape, about(agent, town))
    except ServiceError as error:
        return error.reason
    return "OK"


@pytest.mark.parametrize("shape", SHAPES)
class TestBadCredentials:
    @pytest.mark.parametrize(("make", "reason"), BAD)
    async def test_gets_nowhere(
        self,
        shape: str,
        make: object,
        reason: Reason,
        server: RunningServer,
        shapes: Shapes,
        tokens: Tokens,
    ) -> None:
        """A credential that proves nothing is refused before the handler runs."""
        assert callable(make)
        channel = server.channel(make(tokens))

        assert await reason_of(channel, shape, AGENT, TOWN) == reason
        assert shapes.calls == 0

    async def test_none_at_all(
        self, shape: str, server: RunningServer, shapes: Shapes
    ) -> None:
        """A call without a token is told that it is missing."""
        found = await reason_of(server.channel(), shape, AGENT, TOWN)

        assert found == Reason.TOKEN_MISSING
        assert shapes.calls == 0


@pytest.mark.parametrize("token", [text for text in MALFORMED if text.isascii()])
async def test_a_malformed_token_is_invalid(server: RunningServer, token: str) -> None:
    """Whatever is sent in place of a token, the answer is the same plain refusal."""
    found = await reason_of(server.channel(token), "unary_unary", AGENT, TOWN)

    assert found == Reason.TOKEN_INVALID


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer ", "Basic dXNlcjpwdw=="])
async def test_a_header_without_a_token_is_missing_one(
    server: RunningServer, header: str
) -> None:
    """Only `Bearer <token>` carries a token."""
    channel = server.bare_channel()

    with pytest.raises(ServiceError) as refused, rpc_errors():
        await ask(channel, "unary_unary", metadata=(("authorization", header),))

    assert refused.value.reason is Reason.TOKEN_MISSING


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ALL_KINDS)
@pytest.mark.parametrize("target", REACH)
async def test_reach(
    shape: str, kind: Kind, target: str, server: RunningServer, tokens: Tokens
) -> None:
    """Every kind × every shape × own agent, other agent, other town."""
    agent, town, allowed = REACH[target]
    channel = server.channel(tokens.of_kind(kind))

    found = await reason_of(channel, shape, agent, town)

    refusal = Reason.TOWN_FOREIGN if town == FOREIGN_TOWN else Reason.AGENT_FOREIGN
    assert found == ("OK" if kind in allowed else refusal)


@pytest.mark.parametrize("kind", ALL_KINDS)
@pytest.mark.parametrize("allowed", ALL_KINDS)
async def test_a_row_opens_a_method_to_its_kinds_only(
    kind: Kind, allowed: Kind, shapes: Shapes, tokens: Tokens
) -> None:
    """Each kind on a method that is for one kind."""
    async with running(shapes.add_to, policy(rule(allowed)), tokens) as server:
        channel = server.channel(tokens.of_kind(kind))

        found = await reason_of(channel, "unary_unary", AGENT, TOWN)

    assert found == ("OK" if kind is allowed else Reason.ROLE_INSUFFICIENT)


async def test_the_wrong_kind_learns_nothing_about_towns(
    shapes: Shapes, tokens: Tokens
) -> None:
    """The kind is refused first: the answer is the same for any town."""
    async with running(shapes.add_to, policy(rule(Kind.OPERATOR)), tokens) as server:
        channel = server.channel(tokens.container())

        found = {
            await reason_of(channel, "unary_unary", AGENT, town)
            for town in (TOWN, FOREIGN_TOWN)
        }

    assert found == {Reason.ROLE_INSUFFICIENT}


async def test_an_operator_of_all_towns_reaches_any(
    server: RunningServer, tokens: Tokens
) -> None:
    """The star is for operators, and means every town."""
    channel = server.channel(tokens.operator("*"))

    assert await reason_of(channel, "unary_unary", AGENT, FOREIGN_TOWN) == "OK"


async def test_the_first_frame_decides(server: RunningServer, tokens: Tokens) -> None:
    """What a stream is about is said first; a later frame cannot make it right."""
    channel = server.channel(tokens.container())

    with pytest.raises(ServiceError) as refused, rpc_errors():
        await ask(channel, "stream_unary", about(town=FOREIGN_TOWN), about())

    assert refused.value.reason is Reason.TOWN_FOREIGN


async def test_rotation_costs_no_refusal(server: RunningServer, tokens: Tokens) -> None:
    """A token of a key that is a moment old is believed, and so are older ones."""
    before = server.channel(tokens.container())
    await ask(before, "unary_unary")

    tokens.ring = tokens.ring.rotate()
    after = server.channel(tokens.container())

    assert await ask(after, "unary_unary") == [about()]
    assert await ask(before, "unary_unary") == [about()]
