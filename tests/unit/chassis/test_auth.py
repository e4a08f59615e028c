"""Tokens proven, remembered, expired, revoked; and what a caller reaches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jwt
import pytest

from services.chassis import auth
from services.chassis.auth import LEEWAY_S, Kind, Verifier
from services.chassis.errors import Reason, ServiceError
from services.chassis.key_sources import LOOK_EVERY_S, DirectoryKeys
from tests.support.clock import EPOCH, ManualClock
from tests.support.tokens import (
    AGENT,
    MALFORMED,
    RIG,
    TOWN,
    USER,
    Tokens,
)

SECRET = b"0123456789abcdef0123456789abcdef"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def tokens(tmp_path: Path, clock: ManualClock) -> Tokens:
    return Tokens(tmp_path, clock)


@pytest.fixture
def verifier(tokens: Tokens) -> Verifier:
    return tokens.verifier()


async def reason(verifier: Verifier, token: str) -> str:
    try:
        await verifier.verify(token)
    except ServiceError as error:
        return error.reason
    return "OK"


class TestCallers:
    async def test_a_container(self, verifier: Verifier, tokens: Tokens) -> None:
        """A container speaks for one town, and for no agent."""
        caller = await verifier.verify(tokens.container(generation=3))

        assert (caller.kind, caller.town, caller.agent) == (Kind.CONTAINER, TOWN, None)
        assert caller.generation == 3

    async def test_an_agent(self, verifier: Verifier, tokens: Tokens) -> None:
        """An agent speaks for itself: town, rig, agent."""
        caller = await verifier.verify(tokens.agent())

        assert (caller.kind, caller.town) == (Kind.AGENT, TOWN)
        assert (caller.rig, caller.agent) == (RIG, AGENT)

    async def test_a_user(self, verifier: Verifier, tokens: Tokens) -> None:
        """A user speaks for the towns it belongs to."""
        caller = await verifier.verify(tokens.user("a", "b"))

        assert (caller.kind, caller.user) == (Kind.USER, USER)
        assert caller.towns == {"a", "b"}

    async def test_an_operator(self, verifier: Verifier, tokens: Tokens) -> None:
        """An operator speaks for the towns named, or for all."""
        assert (await verifier.verify(tokens.operator())).towns == {"*"}
        assert (await verifier.verify(tokens.operator("a"))).towns == {"a"}

    async def test_times_and_id(self, verifier: Verifier, tokens: Tokens) -> None:
        """Each token has an id of its own, and says when it begins and ends."""
        first = await verifier.verify(tokens.container(ttl_s=60))
        second = await verifier.verify(tokens.container(ttl_s=60))

        assert first.issued_at == EPOCH
        assert (first.expires_at - EPOCH).total_seconds() == 60
        assert first.token_id != second.token_id

    async def test_the_originals_agent_tokens(
        self, verifier: Verifier, tokens: Tokens
    ) -> None:
        """A token without scope that names an agent is an agent's."""
        claims = tokens.claims(agentId=AGENT, rigId=RIG)
        del claims["scope"]

        assert (await verifier.verify(tokens.signed(claims))).kind is Kind.AGENT


INCOMPLETE = [
    pytest.param({"townId": None}, id="no town"),
    pytest.param({"townId": 7}, id="town is a number"),
    pytest.param({"townId": "../x"}, id="malformed town"),
    pytest.param({"townId": "*"}, id="container of all towns"),
    pytest.param({"scope": "god"}, id="unknown scope"),
    pytest.param({"scope": ["container"]}, id="scope is a list"),
    pytest.param({"scope": None}, id="no scope, no agent"),
    pytest.param({"scope": "agent"}, id="agent without agent"),
    pytest.param({"scope": "agent", "agentId": "a"}, id="agent without rig"),
    pytest.param({"scope": "agent", "rigId": "r", "agentId": ".."}, id="bad agent"),
    pytest.param({"scope": "user"}, id="user without user"),
    pytest.param({"scope": "operator", "townId": None}, id="operator without towns"),
    pytest.param(
        {"scope": "user", "userId": "u", "townId": None, "towns": ["*"]},
        id="user of all towns",
    ),
    pytest.param(
        {"scope": "operator", "townId": None, "towns": ["*", "a"]}, id="star and more"
    ),
    pytest.param(
        {"scope": "operator", "townId": None, "towns": "a"}, id="towns is no list"
    ),
    pytest.param({"exp": None}, id="no expiry"),
    pytest.param({"iat": None}, id="no issue time"),
    pytest.param({"exp": "soon"}, id="expiry is text"),
    pytest.param({"exp": 1e300}, id="expiry beyond time"),
    pytest.param({"exp": True}, id="expiry is a truth"),
    pytest.param({"gen": "1"}, id="generation is text"),
    pytest.param({"aud": ["other", "another"]}, id="other audiences"),
    pytest.param({"aud": 7}, id="audience is a number"),
    pytest.param({"aud": None}, id="no audience"),
]


class TestRefusals:
    @pytest.mark.parametrize("changes", INCOMPLETE)
    async def test_well_signed_and_wrong(
        self, verifier: Verifier, tokens: Tokens, changes: dict[str, Any]
    ) -> None:
        """A good signature under claims that make no sense is not enough."""
        claims = {**tokens.claims(), **changes}
        given = {key: value for key, value in claims.items() if value is not None}

        assert await reason(verifier, tokens.signed(given)) == Reason.TOKEN_INVALID

    @pytest.mark.parametrize("token", MALFORMED)
    async def test_malformed(self, verifier: Verifier, token: str) -> None:
        """No text makes the verifier fall over."""
        assert await reason(verifier, token) == Reason.TOKEN_INVALID

    async def test_empty(self, verifier: Verifier) -> None:
        """Nothing at all is a missing token."""
        assert await reason(verifier, "") == Reason.TOKEN_MISSING

    async def test_oversized_is_not_even_read(
        self, verifier: Verifier, tokens: Tokens, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Length is judged before anything is decoded."""
        token = tokens.oversized()
        monkeypatch.delattr(jwt, "get_unverified_header")

        assert await reason(verifier, token) == Reason.TOKEN_INVALID

    async def test_not_yet(
        self, verifier: Verifier, tokens: Tokens, clock: ManualClock
    ) -> None:
        """A token from the future is refused, a clock a little ahead is not."""
        ahead = clock.now().timestamp() + LEEWAY_S

        just = tokens.signed(tokens.claims(iat=ahead))
        late = tokens.signed(tokens.claims(iat=ahead + 1))
        begins_late = tokens.signed(tokens.claims(nbf=ahead + 1))

        assert await reason(verifier, just) == "OK"
        assert await reason(verifier, late) == Reason.TOKEN_INVALID
        assert await reason(verifier, begins_late) == Reason.TOKEN_INVALID

    async def test_no_inner_text(self, verifier: Verifier, tokens: Tokens) -> None:
        """The refusal repeats nothing of the token."""
        token = tokens.foreign_key()

        with pytest.raises(ServiceError) as refused:
            await verifier.verify(token)

        assert token not in str(refused.value)


class TestTime:
    async def test_a_remembered_token_expires(
        self, verifier: Verifier, tokens: Tokens, clock: ManualClock
    ) -> None:
        """Having been good once does not make it good for ever."""
        token = tokens.container(ttl_s=60)

        clock.advance(60 + LEEWAY_S - 0.1)
        assert await reason(verifier, token) == "OK"

        clock.advance(0.1)
        assert await reason(verifier, token) == Reason.TOKEN_EXPIRED

    async def test_memory_is_bounded(
        self, tokens: Tokens, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A stream of fresh tokens does not grow the process."""
        monkeypatch.setattr(auth, "REMEMBERED_MAX", 3)
        verifier = tokens.verifier()

        for _ in range(5):
            await verifier.verify(tokens.container())

        assert len(verifier._remembered) == 3


class TestKeys:
    async def test_a_removed_key_is_forgotten(
        self, verifier: Verifier, tokens: Tokens, clock: ManualClock
    ) -> None:
        """Tokens of a key that was taken away fail within a second."""
        token, kid = tokens.container(), tokens.ring.kid
        assert await reason(verifier, token) == "OK"
        tokens.ring = tokens.ring.rotate()

        (tokens.folder / f"signing-{kid}.pem").unlink()
        clock.advance(LOOK_EVERY_S)

        assert await reason(verifier, token) == Reason.TOKEN_INVALID
        assert await reason(verifier, tokens.container()) == "OK"


class TestSharedSecret:
    def minted(self, tokens: Tokens, **changes: Any) -> str:
        claims = tokens.claims(**changes)
        del claims["jti"]
        return jwt.encode(
            {key: value for key, value in claims.items() if value is not None},
            SECRET,
            algorithm="HS256",
        )

    async def test_counts_only_where_it_is_set(self, tokens: Tokens) -> None:
        """Tokens minted elsewhere are believed by setting, never by default."""
        token = self.minted(tokens)

        assert await reason(tokens.verifier(), token) == Reason.TOKEN_INVALID
        assert await reason(tokens.verifier(hs256_secret=SECRET), token) == "OK"

    async def test_needs_no_audience_but_no_other_one(self, tokens: Tokens) -> None:
        """The original's tokens name none; one for somebody else is refused."""
        verifier = tokens.verifier(hs256_secret=SECRET)

        assert await reason(verifier, self.minted(tokens, aud=None)) == "OK"
        other = self.minted(tokens, aud="other")
        assert await reason(verifier, other) == Reason.TOKEN_INVALID

    async def test_another_secret_is_refused(self, tokens: Tokens) -> None:
        """The secret is what counts."""
        verifier = tokens.verifier(hs256_secret=SECRET[::-1])

        assert await reason(verifier, self.minted(tokens)) == Reason.TOKEN_INVALID

    async def test_public_keys_stay_no_secrets(self, tokens: Tokens) -> None:
        """With a secret set, a public key used as one still proves nothing."""
        verifier = tokens.verifier(hs256_secret=SECRET)

        found = await reason(verifier, tokens.hs256_with_public_key())

        assert found == Reason.TOKEN_INVALID

    def test_a_short_secret_is_refused(self, tokens: Tokens) -> None:
        """A secret that can be guessed stops the start."""
        with pytest.raises(ValueError, match="under 32 bytes"):
            tokens.verifier(hs256_secret=b"secret")


async def test_verifying_twice_proves_once(
    tokens: Tokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token seen before costs a look-up, not a signature."""
    verifier = Verifier(DirectoryKeys(tokens.folder), clock=tokens.clock)
    token = tokens.container()
    await verifier.verify(token)

    monkeypatch.delattr(jwt, "decode")

    assert (await verifier.verify(token)).town == TOWN
