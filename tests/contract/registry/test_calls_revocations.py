"""Tokens taken back through the registry: refused there at once, told to followers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from services.chassis.auth import Kind
from services.chassis.clock import SystemClock
from services.chassis.errors import Reason, ServiceError
from services.registry.revocations import IDS_MAX
from tests.support.registry_server import refused, serving
from tests.support.tokens import AGENT, FOREIGN_TOWN, TOWN
from townkeeper.registry.v1 import registry_pb2 as pb

PARENT = f"towns/{TOWN}"
RUN = f"{PARENT}/agents/{AGENT}/runs/run-1"


@pytest.fixture
async def registry(tmp_path):
    async with serving(tmp_path, SystemClock()) as made:
        yield made


async def token_id(registry, token: str) -> str:
    return (await registry.tokens.verifier().verify(token)).token_id


async def revoke(registry, kind: Kind = Kind.OPERATOR, parent: str = PARENT, **fields):
    request = pb.RevokeTokensRequest(parent=parent, **fields)
    return await registry.stub(kind).RevokeTokens(request)


async def outcome(registry, token: str) -> Reason | None:
    request = pb.GetAgentRequest(name=f"{PARENT}/agents/{AGENT}")
    try:
        await registry.stub(token).GetAgent(request)
    except Exception as error:
        return ServiceError.from_rpc(error).reason  # type: ignore[arg-type]
    return None


async def test_one_token_by_its_id(registry):
    """From the answer on; its neighbours go on."""
    token, other = registry.tokens.container(), registry.tokens.container()
    assert Reason.AGENT_NOT_FOUND is await outcome(registry, token)

    await revoke(registry, token_ids=[await token_id(registry, token)])

    assert Reason.TOKEN_REVOKED is await outcome(registry, token)
    assert Reason.AGENT_NOT_FOUND is await outcome(registry, other)


async def test_the_tokens_of_a_run(registry):
    """A supervisor takes them back itself when its run ends."""
    token = registry.tokens.agent(run="run-1")
    next_one = registry.tokens.agent(run="run-2")

    await revoke(registry, Kind.CONTAINER, runs=[RUN])

    assert Reason.TOKEN_REVOKED is await outcome(registry, token)
    assert Reason.AGENT_NOT_FOUND is await outcome(registry, next_one)


async def test_all_of_a_town(registry):
    """Operators' stay good, and so do tokens of a later second."""
    old = registry.tokens.container()
    answer = await revoke(registry)
    later = registry.tokens.container(generation=answer.token_generation)

    assert Reason.TOKEN_REVOKED is await outcome(registry, old)
    assert Reason.AGENT_NOT_FOUND is await outcome(registry, later)
    assert Reason.AGENT_NOT_FOUND is await outcome(
        registry, registry.tokens.operator(TOWN)
    )


async def test_an_operator_of_all_towns(registry):
    """Taken back in all towns at once, by another one of all."""
    token = registry.tokens.operator("*")
    everywhere = registry.stub(registry.tokens.operator("*"))
    ids = [await token_id(registry, token)]

    await everywhere.RevokeTokens(
        pb.RevokeTokensRequest(parent="towns/-", token_ids=ids)
    )

    assert Reason.TOKEN_REVOKED is await outcome(registry, token)
    request = pb.RevokeTokensRequest(parent="towns/-", token_ids=ids)
    error = await refused(registry.stub(Kind.OPERATOR).RevokeTokens(request))
    assert Reason.TOWN_FOREIGN is error.reason


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"token_ids": ["a b"]}, Reason.FIELD_INVALID),
        ({"token_ids": [""]}, Reason.FIELD_INVALID),
        ({"token_ids": ["x" * 129]}, Reason.FIELD_INVALID),
        ({"token_ids": ["x"] * (IDS_MAX + 1)}, Reason.FIELD_INVALID),
        ({"runs": ["run-1"]}, Reason.NAME_MALFORMED),
        ({"runs": [RUN.replace(TOWN, FOREIGN_TOWN)]}, Reason.TOWN_FOREIGN),
    ],
)
async def test_what_cannot_be_revoked(registry, fields, reason):
    """Nothing was, then."""
    request = pb.RevokeTokensRequest(parent=PARENT, **fields)

    error = await refused(registry.stub(Kind.OPERATOR).RevokeTokens(request))

    assert reason is error.reason
    assert {} == dict((await registry.store.revocations()).towns)


@pytest.mark.parametrize("fields", [{}, {"token_ids": ["a"]}])
async def test_a_container_takes_back_runs_alone(registry, fields):
    """Whoever holds a town's container credential cannot lock its people out."""
    request = pb.RevokeTokensRequest(parent=PARENT, **fields)

    error = await refused(registry.stub(Kind.CONTAINER).RevokeTokens(request))

    assert Reason.ROLE_INSUFFICIENT is error.reason


async def test_it_is_remembered_as_long_as_it_matters(registry):
    """Until the tokens of the run expire, if that was said; an id until what may be
    renewed under it has."""
    for request in (
        pb.RevokeTokensRequest(parent=PARENT, runs=[RUN]),
        pb.RevokeTokensRequest(parent=PARENT, token_ids=["a"]),
    ):
        request.expire_time.FromDatetime(datetime.now(UTC) + timedelta(hours=1))
        await registry.stub(Kind.OPERATOR).RevokeTokens(request)
    found = registry.store._lists[TOWN]

    (run_until,), (id_until,) = found.runs.values(), found.token_ids.values()

    assert run_until - datetime.now(UTC) < timedelta(hours=1, minutes=2)
    assert id_until - datetime.now(UTC) > timedelta(hours=8 + 24)


@pytest.mark.parametrize("said", [None, timedelta(days=300)])
async def test_a_containers_word_counts_for_a_runs_tokens_life(registry, said):
    """Whatever it says: else it could fill the town's list for a year."""
    request = pb.RevokeTokensRequest(parent=PARENT, runs=[RUN])
    if said:
        request.expire_time.FromDatetime(datetime.now(UTC) + said)

    await registry.stub(Kind.CONTAINER).RevokeTokens(request)

    (until,) = registry.store._lists[TOWN].runs.values()
    left = until - datetime.now(UTC)
    assert timedelta(hours=8) < left < timedelta(hours=8, minutes=2)


async def test_followers_hear_all_lists_then_changes(registry):
    """All towns with a service's credential, one town with a container's."""
    await revoke(registry, token_ids=["a"])
    await revoke(
        registry,
        registry.tokens.operator("*"),
        f"towns/{FOREIGN_TOWN}",
        token_ids=["b"],
    )
    service = registry.stub(Kind.SERVICE)
    everything = registry.stub(registry.tokens.service()).WatchRevocations(
        pb.WatchRevocationsRequest(parent="towns/-")
    )
    own = service.WatchRevocations(pb.WatchRevocationsRequest(parent=PARENT))

    first = [await everything.read() for _ in range(3)]
    assert [(PARENT, ["a"]), (f"towns/{FOREIGN_TOWN}", ["b"])] == [
        (step.town, list(step.token_ids)) for step in first[:2]
    ]
    assert first[2].synced
    assert [PARENT, ""] == [(await own.read()).town for _ in range(2)]

    await revoke(registry, runs=[RUN])
    step = await everything.read()
    assert (PARENT, ["a"], [RUN]) == (step.town, list(step.token_ids), list(step.runs))
    assert (await everything.read()).synced
    everything.cancel()
    own.cancel()


async def test_a_follower_whose_own_token_is_revoked_is_cut(registry):
    """What lasts is looked at again after each word that is sent: it hears of itself,
    and then no more."""
    token = registry.tokens.container()
    call = registry.stub(token).WatchRevocations(
        pb.WatchRevocationsRequest(parent=PARENT)
    )
    assert (await call.read()).synced

    await revoke(registry, token_ids=[await token_id(registry, token)])

    assert PARENT == (await call.read()).town
    error = await refused(call.read())
    assert Reason.TOKEN_REVOKED is error.reason
