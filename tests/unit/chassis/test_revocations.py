"""Tokens that were taken back, as a process that follows the lists knows them."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.chassis.auth import RevocationList, Verifier
from services.chassis.errors import Reason, ServiceError
from services.chassis.revocations import STALE_S, Revoked
from tests.support.clock import ManualClock
from tests.support.tokens import AGENT, FOREIGN_TOWN, TOWN, Tokens


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def tokens(tmp_path: Path, clock: ManualClock) -> Tokens:
    return Tokens(tmp_path, clock)


async def reason(verifier: Verifier, token: str) -> str:
    """Why the token is refused, or OK."""
    try:
        await verifier.verify(token)
    except ServiceError as error:
        return error.reason
    return "OK"


async def test_by_id(tokens: Tokens) -> None:
    """One token dies, remembered or not; its neighbours live."""
    revocations = RevocationList()
    verifier = tokens.verifier(revocations=revocations)
    token, other = tokens.container(), tokens.container()
    caller = await verifier.verify(token)

    revocations.update(TOWN, Revoked(frozenset({caller.token_id})))

    assert await reason(verifier, token) == Reason.TOKEN_REVOKED
    assert await reason(verifier, other) == "OK"


async def test_by_generation(tokens: Tokens) -> None:
    """The town's older tokens die; newer ones and other towns' live."""
    revocations = RevocationList()
    verifier = tokens.verifier(revocations=revocations)

    revocations.update(TOWN, Revoked(generation=2))

    old, new = tokens.container(generation=1), tokens.container(generation=2)
    assert await reason(verifier, old) == Reason.TOKEN_REVOKED
    assert await reason(verifier, new) == "OK"
    assert await reason(verifier, tokens.container(FOREIGN_TOWN)) == "OK"
    assert await reason(verifier, tokens.operator(TOWN)) == "OK"


async def test_an_operator_by_id(tokens: Tokens) -> None:
    """An operator of all towns is revoked by any town's list."""
    revocations = RevocationList()
    verifier = tokens.verifier(revocations=revocations)
    token = tokens.operator("*")
    caller = await verifier.verify(token)

    revocations.update(TOWN, Revoked(frozenset({caller.token_id})))

    assert await reason(verifier, token) == Reason.TOKEN_REVOKED


async def test_by_run(tokens: Tokens) -> None:
    """Tokens of one run die with it; those of the agent's next run live."""
    revocations = RevocationList()
    verifier = tokens.verifier(revocations=revocations)

    revocations.update(TOWN, Revoked(runs=frozenset({f"{AGENT}/run-1"})))

    ended, other = tokens.agent(run="run-1"), tokens.agent(run="run-2")
    assert await reason(verifier, ended) == Reason.TOKEN_REVOKED
    assert await reason(verifier, other) == "OK"
    assert await reason(verifier, tokens.agent()) == "OK"


async def test_by_time_of_issue(tokens: Tokens, clock: ManualClock) -> None:
    """A generation is a second: what was issued before it is dead."""
    revocations = RevocationList()
    verifier = tokens.verifier(revocations=revocations)
    before = tokens.container()
    clock.advance(1)

    now_s = int(clock.now().timestamp())
    revocations.update(TOWN, Revoked(generation=now_s))

    assert await reason(verifier, before) == Reason.TOKEN_REVOKED
    assert await reason(verifier, tokens.container()) == "OK"


async def test_what_holds_in_all_towns(tokens: Tokens) -> None:
    """The list of all towns counts for tokens of one as well."""
    revocations = RevocationList()
    verifier = tokens.verifier(revocations=revocations)
    token = tokens.container()
    caller = await verifier.verify(token)

    revocations.update("*", Revoked(frozenset({caller.token_id})))

    assert await reason(verifier, token) == Reason.TOKEN_REVOKED


async def test_nobody_is_let_in_before_the_lists_were_heard(tokens: Tokens) -> None:
    """A service that has just started cannot know who is revoked."""
    revocations = RevocationList(followed=True)
    verifier = tokens.verifier(revocations=revocations)

    assert await reason(verifier, tokens.container()) == Reason.KEYS_UNAVAILABLE
    revocations.heard()
    assert await reason(verifier, tokens.container()) == "OK"


async def test_cut_off_it_keeps_the_last_lists_and_says_so(
    tokens: Tokens, clock: ManualClock
) -> None:
    """Five seconds of silence are a complaint, and change nothing else."""
    revocations = RevocationList(followed=True, clock=clock)
    verifier = tokens.verifier(revocations=revocations)
    token, revoked = tokens.container(), tokens.container()
    revocations.heard()
    caller = await verifier.verify(revoked)
    revocations.replace({TOWN: Revoked(frozenset({caller.token_id}))})

    clock.advance(STALE_S)
    await verifier.check_following()
    clock.advance(0.1)
    with pytest.raises(ServiceError, match="earlier revocations hold"):
        await verifier.check_following()

    assert await reason(verifier, revoked) == Reason.TOKEN_REVOKED
    assert await reason(verifier, token) == "OK"


async def test_a_life_that_nobody_would_remember(tokens: Tokens) -> None:
    """Tokens live for 366 days at most, wherever they were minted."""
    claims = tokens.claims()
    claims["exp"] = claims["iat"] + 367 * 24 * 3600

    found = await reason(tokens.verifier(), tokens.signed(claims))

    assert found == Reason.TOKEN_INVALID
    with pytest.raises(ServiceError, match="366 days"):
        tokens.container(ttl_s=367 * 24 * 3600)
