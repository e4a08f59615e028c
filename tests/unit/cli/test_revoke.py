"""`townkeeper token revoke`: what goes on which town's list."""

from __future__ import annotations

from pathlib import Path

import jwt
import pytest

from tests.support.tokens import Tokens
from tests.unit.cli.conftest import CommandLine
from townkeeper.registry.v1 import registry_pb2 as pb


@pytest.fixture
def tokens(tmp_path: Path) -> Tokens:
    return Tokens(tmp_path)


def revoke(townkeeper: CommandLine, *words: str) -> dict[str, list[str]]:
    """What was asked for, by the list that it was meant for."""
    townkeeper.services.answers["RevokeTokens"] = pb.RevokeTokensResponse()
    assert 0 == townkeeper("token", "revoke", *words)
    asked = townkeeper.services.requests
    found = [one for one in asked if isinstance(one, pb.RevokeTokensRequest)]
    lists = {one.parent: [*one.token_ids, *one.runs] for one in found}
    assert len(found) == len(lists)
    return lists


def test_each_token_goes_to_its_own_town(
    townkeeper: CommandLine, tokens: Tokens
) -> None:
    """On another town's list it would be as good as ever."""
    given = [
        *(tokens.container("town-1"), tokens.container("town-2")),
        *(tokens.user("town-8", "town-9"), tokens.user("town-0", "town-1")),
        tokens.operator(),
    ]

    lists = revoke(townkeeper, "bare", *given, "--run", "ada/r1")

    assert {
        "towns/town-1": 4,
        "towns/town-2": 1,
        "towns/town-8": 1,
        "towns/-": 1,
    } == {parent: len(entries) for parent, entries in lists.items()}
    assert "bare" in lists["towns/town-1"]
    assert "revoked 1 of towns/town-2" in townkeeper.out.splitlines()


def test_runs_of_another_town_go_to_that(townkeeper: CommandLine) -> None:
    """When they are named in full."""
    run = "towns/town-2/agents/ada/runs/r1"

    lists = revoke(townkeeper, "--run", run, "--run", "ada/r1")

    assert {
        "towns/town-2": [run],
        "towns/town-1": ["towns/town-1/agents/ada/runs/r1"],
    } == lists


def test_all_of_the_town(townkeeper: CommandLine) -> None:
    """Of the one that is meant, with nothing named."""
    assert {"towns/town-1": []} == revoke(townkeeper, "--all")


async def test_a_token_without_an_id(townkeeper: CommandLine, tokens: Tokens) -> None:
    """Others mint such, with a shared secret: it goes by what verifiers call it."""
    secret = b"a secret that is long enough for it"
    claims = tokens.claims()
    del claims["jti"]
    token = jwt.encode(claims, secret, algorithm="HS256")
    caller = await tokens.verifier(hs256_secret=secret).verify(token)

    assert {"towns/town-1": [caller.token_id]} == revoke(townkeeper, token)
