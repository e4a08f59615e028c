"""A container's token is exchanged for a new one, and the mayor named."""

from __future__ import annotations

from typing import Any

import pytest

from services.chassis.access import RENEWAL_GRACE_S
from services.chassis.errors import Reason, ServiceError
from tests.contract.gateway.fake_plane import FakePlane
from tests.support.tokens import TOWN
from townkeeper.registry.v1 import resources_pb2

REFRESH = f"/api/towns/{TOWN}/refresh-container-token"
MAYOR = f"/api/towns/{TOWN}/mayor-id"


@pytest.mark.parametrize(
    ("ttl_s", "expired"), [(60, False), (-10, True), (60 - RENEWAL_GRACE_S, True)]
)
def test_a_token_is_exchanged(plane: FakePlane, ttl_s: float, expired: bool):
    """While it is good and for a day after."""
    token = plane.tokens.container(ttl_s=ttl_s)

    answer = plane.request("POST", REFRESH, token, json={})

    assert 200 == answer.status_code
    assert {
        "success": True,
        "data": {"token": f"new token of towns/{TOWN}", "expiredInbound": expired},
    } == answer.json()


def without(plane: FakePlane, claim: str) -> str:
    claims = plane.tokens.claims()
    del claims[claim]
    return plane.tokens.signed(claims)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        pytest.param(
            lambda plane: plane.tokens.container(ttl_s=-RENEWAL_GRACE_S - 10),
            "Token expired beyond refresh grace period",
            id="too late",
        ),
        pytest.param(
            lambda plane: without(plane, "exp"), "Token missing exp claim", id="no exp"
        ),
        pytest.param(
            lambda plane: without(plane, "iat"), "Invalid token signature", id="no iat"
        ),
        pytest.param(
            lambda plane: plane.tokens.foreign_key(),
            "Invalid token signature",
            id="key",
        ),
        pytest.param(lambda plane: "", "Authentication required", id="none"),
    ],
)
def test_refusals_have_the_originals_words(plane: FakePlane, make: Any, text: str):
    """Containers compare them."""
    answer = plane.request("POST", REFRESH, make(plane))

    assert (401, text) == (answer.status_code, answer.json()["error"])


def test_elsewhere_an_expired_token_stays_expired(plane: FakePlane):
    """The grace is for the exchange alone."""
    answer = plane.request("GET", MAYOR, plane.tokens.container(ttl_s=-10))

    assert (401, "Token expired") == (answer.status_code, answer.json()["error"])


def test_a_registry_that_signs_nothing(plane: FakePlane):
    """The container must get its token elsewhere."""
    plane.registry.fail = ServiceError(Reason.SIGNING_DISABLED, "cannot issue tokens")

    answer = plane.request("POST", REFRESH, plane.tokens.container())

    assert 501 == answer.status_code
    assert "SIGNING_DISABLED" == answer.headers["x-townkeeper-reason"]


def test_the_mayor_is_named_and_nothing_more(plane: FakePlane):
    """Not what it is started with: no model, no token."""
    nobody = plane.request("GET", MAYOR, plane.tokens.container())
    spec = resources_pb2.AgentSpec(
        role=resources_pb2.ROLE_MAYOR,
        model="kilo/auto",
        env_vars={"KILOCODE_TOKEN": "s3cret"},
    )
    plane.registry.add("ada", spec=spec)

    somebody = plane.request("GET", MAYOR, plane.tokens.container())

    assert {"success": True, "agentId": None} == nobody.json()
    assert {"success": True, "agentId": "ada"} == somebody.json()


def test_a_revoked_token_is_not_exchanged(plane: FakePlane):
    """Neither while it is good nor in its day of grace."""
    for claims in ({}, {"exp": plane.tokens.claims()["iat"] - 10}):
        answer = plane.request("POST", REFRESH, plane.tokens.revoked(**claims))

        assert (401, "Token revoked") == (answer.status_code, answer.json()["error"])
