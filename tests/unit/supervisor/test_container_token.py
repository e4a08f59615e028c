"""The supervisor's own token is replaced by a good one of its town only."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from services.chassis.access import Kind
from services.chassis.clock import SystemClock
from services.chassis.errors import Reason, ServiceError
from services.supervisor.container_token import ContainerToken
from tests.support.clock import ManualClock
from tests.support.tokens import TOWN, Tokens


@pytest.fixture
def tokens(tmp_path: Path) -> Tokens:
    return Tokens(tmp_path, ManualClock(SystemClock().now()))


async def test_the_next_call_shows_the_new_one(tokens: Tokens) -> None:
    """Without a restart."""
    held, new = ContainerToken("old", TOWN), tokens.container()

    await held.replace(new, tokens.verifier())

    assert new == held.token()


async def refusal(held: ContainerToken, token: str, tokens: Tokens) -> ServiceError:
    with pytest.raises(ServiceError) as refused:
        await held.replace(token, tokens.verifier())
    assert "old" == held.token()
    assert token not in refused.value.message or not token
    assert "token" == refused.value.metadata["field"]
    return refused.value


@pytest.mark.parametrize("kind", [k for k in Kind if k is not Kind.CONTAINER])
async def test_other_kinds_are_refused(tokens: Tokens, kind: Kind) -> None:
    """Whatever they may do: the supervisor would do it."""
    held = ContainerToken("old", TOWN)

    error = await refusal(held, tokens.of_kind(kind), tokens)

    assert Reason.FIELD_INVALID is error.reason


async def test_bad_ones_are_refused(tokens: Tokens) -> None:
    """Another town's, another key's, one that is over, none, nonsense."""
    held = ContainerToken("old", TOWN)
    over = tokens.container()
    assert isinstance(tokens.clock, ManualClock)
    tokens.clock.advance(timedelta(days=400).total_seconds())
    foreign = tokens.foreign_ring.mint(Kind.CONTAINER, town=TOWN)

    for bad in (tokens.container("elsewhere"), foreign, over, "nonsense"):
        error = await refusal(held, bad, tokens)
        assert Reason.FIELD_INVALID is error.reason
    assert Reason.FIELD_REQUIRED is (await refusal(held, "", tokens)).reason
