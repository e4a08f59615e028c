"""Tokens for runs of agents: to the holder alone, and good for one run."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from services.chassis.access import RENEWAL_GRACE_S
from services.chassis.auth import Kind
from services.chassis.clock import SystemClock
from services.chassis.errors import Reason, ServiceError
from services.registry import wire
from services.registry.revocations import Revocation
from tests.support.clock import ManualClock
from tests.support.registry_samples import (
    ADDRESS,
    BOOT,
    FIRST,
    MAYOR,
    OTHER_BOOT,
    SECOND,
    SPEC,
)
from tests.support.registry_server import refused, serving
from townkeeper.registry.v1 import registry_pb2 as pb


@pytest.fixture
async def registry(tmp_path):
    """One that signs, and an instance that holds the mayor under epoch 1."""
    async with serving(tmp_path, SystemClock(), signs=True) as made:
        await made.store.register_instance(FIRST, BOOT, ADDRESS)
        await made.store.register_agent(MAYOR, SPEC)
        await made.store.claim(FIRST, BOOT, [MAYOR.agent])
        yield made


def request(run: str = "run-1", **changes) -> pb.IssueAgentTokenRequest:
    fields = {
        "name": str(MAYOR),
        "epoch": 1,
        "instance": str(FIRST),
        "boot_id": BOOT,
        "run": run,
    }
    return pb.IssueAgentTokenRequest(**{**fields, **changes})


async def issue(registry, *args, **changes) -> pb.IssueAgentTokenResponse:
    return await registry.stub(Kind.CONTAINER).IssueAgentToken(
        request(*args, **changes)
    )


async def outcome(registry, token: str) -> Reason | None:
    try:
        await registry.stub(token).GetAgent(pb.GetAgentRequest(name=str(MAYOR)))
    except Exception as error:
        return ServiceError.from_rpc(error).reason  # type: ignore[arg-type]
    return None


async def test_it_is_the_agents_own(registry):
    """Town, rig and agent of the record, the run as asked, and a short life."""
    reply = await issue(registry, ttl=wire.duration_to_proto(600))

    caller = await registry.tokens.verifier().verify(reply.token)
    assert (Kind.AGENT, MAYOR.town, MAYOR.agent, SPEC.rig_id, "run-1") == (
        caller.kind,
        caller.town,
        caller.agent,
        caller.rig,
        caller.run,
    )
    assert caller.expires_at == reply.expire_time.ToDatetime(UTC)
    assert caller.expires_at - datetime.now(UTC) <= timedelta(minutes=10)
    assert None is await outcome(registry, reply.token)


async def test_a_run_may_ask_again(registry):
    """A fresh token beside the old one, which stays good."""
    first, second = await issue(registry), await issue(registry)

    assert None is await outcome(registry, first.token)
    assert None is await outcome(registry, second.token)


async def test_the_next_run_ends_the_tokens_of_the_last(registry):
    """All that were issued for it, whoever has them now."""
    tokens = [(await issue(registry)).token for _ in range(2)]

    following = await issue(registry, "run-2")

    assert [Reason.TOKEN_REVOKED] * 2 == [await outcome(registry, t) for t in tokens]
    assert None is await outcome(registry, following.token)


async def test_a_new_holder_ends_the_tokens_of_the_old_one(registry):
    """Whose instance is gone, so that nobody took them back."""
    old = await issue(registry)
    await registry.store.release_instance(FIRST, BOOT)
    await registry.store.register_instance(SECOND, OTHER_BOOT, ADDRESS)
    await registry.store.claim(SECOND, OTHER_BOOT, [MAYOR.agent])

    new = await issue(
        registry, "run-2", epoch=2, instance=str(SECOND), boot_id=OTHER_BOOT
    )

    assert Reason.TOKEN_REVOKED is await outcome(registry, old.token)
    assert None is await outcome(registry, new.token)
    error = await refused(registry.stub(Kind.CONTAINER).IssueAgentToken(request()))
    assert (Reason.LEASE_FENCED, str(SECOND)) == (
        error.reason,
        error.metadata["holder"],
    )


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"epoch": 2}, Reason.LEASE_FENCED),
        ({"epoch": 0}, Reason.LEASE_FENCED),
        ({"instance": str(SECOND)}, Reason.LEASE_FENCED),
        ({"boot_id": OTHER_BOOT}, Reason.LEASE_FENCED),
        ({"name": f"{MAYOR}-2"}, Reason.AGENT_NOT_FOUND),
        ({"run": ""}, Reason.FIELD_REQUIRED),
        ({"run": "a/b"}, Reason.NAME_MALFORMED),
        ({"boot_id": ""}, Reason.FIELD_REQUIRED),
        ({"ttl": wire.duration_to_proto(59)}, Reason.FIELD_INVALID),
        ({"ttl": wire.duration_to_proto(8 * 3600 + 1)}, Reason.FIELD_INVALID),
    ],
)
async def test_to_nobody_else(registry, changes, reason):
    """Only whoever holds the lease, under its epoch, in its boot; for a life that is
    short enough."""
    stub = registry.stub(Kind.CONTAINER)

    error = await refused(stub.IssueAgentToken(request(**changes)))

    assert reason is error.reason


async def test_an_older_epoch_loses_even_a_race(registry):
    """Its lease was looked at, then another holder's run began: it comes too late."""
    await registry.store.begin_run(MAYOR, 2, "run-2", timedelta(hours=1))

    error = await refused(registry.stub(Kind.CONTAINER).IssueAgentToken(request()))

    assert Reason.LEASE_FENCED is error.reason


async def test_keys_are_read_anew(registry):
    """A key that was rotated signs without a restart; verifiers have it already."""
    registry.tokens.ring = registry.tokens.ring.rotate()

    reply = await issue(registry)

    assert None is await outcome(registry, reply.token)


async def test_a_registry_without_keys_says_so(tmp_path):
    """It verifies with public keys, as it should, and signs nothing."""
    async with serving(tmp_path, SystemClock()) as registry:
        await registry.store.register_instance(FIRST, BOOT, ADDRESS)
        await registry.store.register_agent(MAYOR, SPEC)
        await registry.store.claim(FIRST, BOOT, [MAYOR.agent])

        error = await refused(registry.stub(Kind.CONTAINER).IssueAgentToken(request()))

    assert Reason.SIGNING_DISABLED is error.reason
    assert "TOWNKEEPER_SIGNING_KEYS_DIR" in error.message


async def test_keys_that_cannot_be_read_now(registry):
    """Tried again later: somebody is replacing them."""
    for key in registry.tokens.folder.glob("*.pem"):
        key.chmod(0o666)

    error = await refused(registry.stub(Kind.CONTAINER).IssueAgentToken(request()))

    assert Reason.KEYS_UNAVAILABLE is error.reason


class TestContainers:
    """A container's own token, exchanged for a new one."""

    PARENT = f"towns/{MAYOR.town}"

    async def renew(self, registry, token: str) -> str:
        reply = await registry.stub(token).IssueContainerToken(
            pb.IssueContainerTokenRequest(parent=self.PARENT)
        )
        caller = await registry.tokens.verifier().verify(reply.token)
        assert caller.expires_at == reply.expire_time.ToDatetime(UTC)
        return reply.token

    @pytest.mark.parametrize("ttl_s", [60, -10, 60 - RENEWAL_GRACE_S])
    async def test_while_it_is_good_and_for_a_day(self, registry, ttl_s):
        """The new one is a container's of the same town, for eight hours."""
        token = await self.renew(registry, registry.tokens.container(ttl_s=ttl_s))

        caller = await registry.tokens.verifier().verify(token)
        assert (Kind.CONTAINER, MAYOR.town) == (caller.kind, caller.town)
        assert timedelta(hours=8) == caller.expires_at - caller.issued_at
        assert None is await outcome(registry, token)

    async def test_not_later(self, registry):
        """A day after its end a token is of no use to anybody."""
        token = registry.tokens.container(ttl_s=-RENEWAL_GRACE_S - 10)
        request = pb.IssueContainerTokenRequest(parent=self.PARENT)

        error = await refused(registry.stub(token).IssueContainerToken(request))

        assert Reason.TOKEN_EXPIRED is error.reason

    async def test_a_revoked_one_is_not(self, registry):
        """And with it goes all that was made of it, over any number of steps."""
        first = registry.tokens.container()
        second = await self.renew(registry, first)
        third = await self.renew(registry, second)
        id = (await registry.tokens.verifier().verify(first)).token_id

        await registry.stub(Kind.OPERATOR).RevokeTokens(
            pb.RevokeTokensRequest(parent=self.PARENT, token_ids=[id])
        )

        for token in (first, second, third):
            assert Reason.TOKEN_REVOKED is await outcome(registry, token)
            request = pb.IssueContainerTokenRequest(parent=self.PARENT)
            error = await refused(registry.stub(token).IssueContainerToken(request))
            assert Reason.TOKEN_REVOKED is error.reason
        assert None is await outcome(registry, registry.tokens.container())


class TestLineage:
    """A token is worth no more than the one that asked for it."""

    async def made_of(self, registry, token: str) -> list[str]:
        stub = registry.stub(token)
        parent = f"towns/{MAYOR.town}"
        renewed = await stub.IssueContainerToken(
            pb.IssueContainerTokenRequest(parent=parent)
        )
        return [renewed.token, (await stub.IssueAgentToken(request())).token]

    @pytest.mark.parametrize("call", ["IssueContainerToken", "IssueAgentToken"])
    async def test_what_another_replica_revoked_counts(self, registry, call):
        """This one has not heard of it yet: it asks before it issues."""
        token = registry.tokens.container()
        id = (await registry.tokens.verifier().verify(token)).token_id
        await registry.store.revoke(MAYOR.town, Revocation((id,)))

        error = await refused(getattr(registry.stub(token), call)(asked(call)))

        assert Reason.TOKEN_REVOKED is error.reason

    async def test_while_nobody_can_tell_none_is_issued(self, registry):
        """The store is away: a revoked token would get a good one."""
        registry.store.failure = ServiceError(Reason.STORE_UNAVAILABLE, "cannot: away")
        call = "IssueContainerToken"

        error = await refused(registry.stub().IssueContainerToken(asked(call)))

        assert Reason.STORE_UNAVAILABLE is error.reason

    @pytest.mark.parametrize("everything", [True, False])
    async def test_it_is_revoked_with_its_origin(self, registry, everything):
        """However much later it was issued."""
        generation = 1000
        token = registry.tokens.container(generation=generation)
        caller = await registry.tokens.verifier().verify(token)
        made = await self.made_of(registry, token)
        assert [None] * 2 == [await outcome(registry, one) for one in made]

        ids = () if everything else (caller.token_id,)
        # The replica's clock stands where only tokens of that generation are meant.
        then = datetime.fromtimestamp(generation, UTC)
        registry.store.clock = ManualClock(then)
        await registry.store.revoke(MAYOR.town, Revocation(ids))
        await registry.feed.refresh()

        verdicts = [await outcome(registry, one) for one in made]
        assert [Reason.TOKEN_REVOKED] * 2 == verdicts


def asked(call: str) -> Any:
    if call == "IssueAgentToken":
        return request()
    return pb.IssueContainerTokenRequest(parent=f"towns/{MAYOR.town}")
