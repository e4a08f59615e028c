"""Calls about instances, leases and drains, over a real port."""

from __future__ import annotations

from typing import Any

import pytest

from services.chassis.auth import Kind
from services.chassis.errors import Reason
from tests.support.clock import ManualClock
from tests.support.registry_samples import (
    ADDRESS,
    BOOT,
    FIRST,
    MAYOR,
    OTHER_BOOT,
    POLECAT,
    SECOND,
    SPEC,
    message,
)
from tests.support.registry_server import Registry, refused
from tests.support.tokens import TOWN
from townkeeper.registry.v1 import registry_pb2 as pb
from townkeeper.registry.v1 import resources_pb2 as resources

PARENT = f"towns/{TOWN}"
READY = resources.Instance.STATE_READY
DRAINING = resources.Instance.STATE_DRAINING
EXPIRED = resources.Instance.STATE_EXPIRED


def instance(name=FIRST, boot=BOOT, address=ADDRESS, **options: Any) -> Any:
    return pb.RegisterInstanceRequest(
        name=str(name), boot_id=boot, address=address, **options
    )


def beat(name=FIRST, boot=BOOT, *runs: Any) -> Any:
    return pb.HeartbeatRequest(name=str(name), boot_id=boot, runs=runs)


def claim(*agents: Any, name=FIRST, boot=BOOT, **options: Any) -> Any:
    return pb.ClaimAgentsRequest(
        instance=str(name), boot_id=boot, agents=map(str, agents), **options
    )


def release(*releases: Any, name=FIRST, boot=BOOT) -> Any:
    return pb.ReleaseAgentsRequest(instance=str(name), boot_id=boot, releases=releases)


@pytest.fixture
async def booted(registry: Registry, stub: Any) -> Any:
    """A stub; one agent, one instance."""
    await registry.store.register_agent(MAYOR, SPEC)
    await stub.RegisterInstance(instance())
    return stub


def pass_time(registry: Registry, seconds: float) -> None:
    clock = registry.store.clock
    assert isinstance(clock, ManualClock)
    clock.advance(seconds)


class TestRegisterInstance:
    async def test_says_how_long_it_lives_and_how_often_to_beat(self, stub):
        """TTL and interval come with the answer, and are in no client."""
        answer = await stub.RegisterInstance(instance(capacity=3))

        assert (10, 2) == (answer.ttl.seconds, answer.heartbeat_interval.seconds)
        made = answer.instance
        assert (str(FIRST), BOOT, ADDRESS, 3, READY, 0) == (
            made.name,
            made.boot_id,
            made.address,
            made.capacity,
            made.state,
            made.lease_count,
        )
        assert 10 == made.expire_time.seconds - made.register_time.seconds

    @pytest.mark.parametrize(
        ("asked", "reason", "field"),
        [
            pytest.param(
                instance(boot=""), Reason.FIELD_REQUIRED, "boot_id", id="no boot"
            ),
            pytest.param(
                instance(boot="a b"), Reason.NAME_MALFORMED, "boot_id", id="boot"
            ),
            pytest.param(
                instance(address=""), Reason.FIELD_REQUIRED, "address", id="no address"
            ),
            pytest.param(
                instance(address="nowhere"),
                Reason.FIELD_INVALID,
                "address",
                id="no port",
            ),
            pytest.param(
                instance(address="host:0"), Reason.FIELD_INVALID, "address", id="port 0"
            ),
            pytest.param(
                instance(capacity=-1), Reason.FIELD_INVALID, "capacity", id="capacity"
            ),
        ],
    )
    async def test_refuses_bad_fields(self, stub, asked, reason, field):
        """Nothing is registered then."""
        error = await refused(stub.RegisterInstance(asked))

        assert (reason, field) == (error.reason, error.metadata["field"])
        listed = await stub.ListInstances(pb.ListInstancesRequest(parent=PARENT))
        assert [] == list(listed.instances)


class TestHeartbeat:
    async def test_tells_what_is_lost_and_what_waits(self, registry, booted):
        """Agents by their names, and the nonce of a drain."""
        await booted.ClaimAgents(claim())
        await registry.store.enqueue(message("m-1"), "Hello")
        drain = await booted.AnnounceDrain(pb.AnnounceDrainRequest(parent=PARENT))
        runs = [
            pb.RunEvidence(agent=str(MAYOR), epoch=1, generation=4),
            pb.RunEvidence(agent=str(POLECAT), epoch=1),
        ]

        answer = await booted.Heartbeat(beat(FIRST, BOOT, *runs))

        assert 10 == answer.ttl.seconds
        assert [str(POLECAT)] == list(answer.lost_agents)
        assert [str(MAYOR)] == list(answer.pending_agents)
        assert drain.nonce == answer.drain_nonce
        found = await booted.GetAgent(pb.GetAgentRequest(name=str(MAYOR)))
        assert 4 == found.agent.generation

    async def test_refuses_strangers_and_old_boots(self, stub):
        """The first are to register; the second are to end."""
        stranger = await refused(stub.Heartbeat(beat()))
        await stub.RegisterInstance(instance())
        await stub.RegisterInstance(instance(boot=OTHER_BOOT))
        old = await refused(stub.Heartbeat(beat()))

        assert Reason.INSTANCE_NOT_FOUND is stranger.reason
        assert (Reason.LEASE_FENCED, str(FIRST)) == (old.reason, old.metadata["holder"])

    @pytest.mark.parametrize(
        ("asked", "reason"),
        [
            pytest.param(beat(FIRST, ""), Reason.FIELD_REQUIRED, id="no boot"),
            pytest.param(
                beat(FIRST, BOOT, *[pb.RunEvidence(agent="a")] * 1001),
                Reason.FIELD_INVALID,
                id="too many runs",
            ),
            pytest.param(
                beat(FIRST, BOOT, pb.RunEvidence(agent="..")),
                Reason.NAME_MALFORMED,
                id="agent",
            ),
            pytest.param(
                beat(FIRST, BOOT, pb.RunEvidence(agent="a", epoch=-1)),
                Reason.FIELD_INVALID,
                id="epoch",
            ),
            pytest.param(
                beat(FIRST, BOOT, pb.RunEvidence(agent="a", generation=2**62)),
                Reason.FIELD_INVALID,
                id="generation",
            ),
        ],
    )
    async def test_refuses_bad_fields(self, booted, asked, reason):
        """What cannot be meant is not guessed at."""
        assert reason is (await refused(booted.Heartbeat(asked))).reason

    async def test_cuts_a_long_error(self, booted):
        """The record keeps the beginning of it."""
        await booted.ClaimAgents(claim())
        run = pb.RunEvidence(agent=MAYOR.agent, epoch=1, last_error="x" * 5000)

        await booted.Heartbeat(beat(FIRST, BOOT, run))

        found = await booted.GetAgent(pb.GetAgentRequest(name=str(MAYOR)))
        assert "x" * 1024 == found.agent.last_error


class TestInstances:
    async def test_are_listed_with_their_states(self, registry, booted):
        """Draining and expired ones too, with how many leases each holds."""
        await booted.ClaimAgents(claim())
        pass_time(registry, 11)
        await booted.RegisterInstance(instance(SECOND, OTHER_BOOT))
        await booted.AnnounceDrain(pb.AnnounceDrainRequest(parent=PARENT))

        listed = await booted.ListInstances(pb.ListInstancesRequest(parent=PARENT))

        assert [(str(FIRST), EXPIRED, 1), (str(SECOND), DRAINING, 0)] == [
            (each.name, each.state, each.lease_count) for each in listed.instances
        ]

    async def test_are_released_by_their_own_boot(self, booted):
        """Twice is fine; another boot is fenced."""
        asked = pb.ReleaseInstanceRequest(name=str(FIRST), boot_id=OTHER_BOOT)
        other = await refused(booted.ReleaseInstance(asked))
        asked.boot_id = BOOT
        await booted.ReleaseInstance(asked)
        await booted.ReleaseInstance(asked)

        listed = await booted.ListInstances(pb.ListInstancesRequest(parent=PARENT))
        assert Reason.LEASE_FENCED is other.reason
        assert [] == list(listed.instances)


class TestResolve:
    @pytest.mark.parametrize("kind", sorted(set(Kind) - {Kind.SERVICE}))
    async def test_names_the_holder_else_a_ready_instance(self, registry, booted, kind):
        """Whoever may ask gets the address to call."""
        asked = pb.ResolveAgentRequest(name=str(MAYOR))
        stub = registry.stub(kind)

        before = await stub.ResolveAgent(asked)
        await booted.ClaimAgents(claim())
        after = await stub.ResolveAgent(asked)

        assert [(False, ADDRESS), (True, ADDRESS)] == [
            (each.holds_lease, each.instance.address) for each in (before, after)
        ]

    async def test_says_when_no_instance_is_there(self, stub):
        """UNAVAILABLE: one may come."""
        error = await refused(
            stub.ResolveAgent(pb.ResolveAgentRequest(name=str(MAYOR)))
        )

        assert (Reason.NO_INSTANCE, "UNAVAILABLE") == (error.reason, error.code.name)


class TestClaim:
    async def test_gives_the_record_with_its_lease(self, registry, booted):
        """All that a start needs, values of variables included."""
        (given,) = (await booted.ClaimAgents(claim())).claims

        assert (str(FIRST), BOOT, 1, True) == (
            given.agent.lease.instance,
            given.agent.lease.boot_id,
            given.agent.lease.epoch,
            given.agent.lease.live,
        )
        assert {"GIT_TOKEN": "s3cret"} == dict(given.agent.spec.env_vars)
        assert given.agent.lease.HasField("acquire_time")
        assert not given.taken_over
        pass_time(registry, 11)
        await booted.RegisterInstance(instance(SECOND, OTHER_BOOT))
        (taken,) = (
            await booted.ClaimAgents(claim(name=SECOND, boot=OTHER_BOOT))
        ).claims
        assert (True, 2) == (taken.taken_over, taken.agent.lease.epoch)

    async def test_takes_names_and_ids(self, booted):
        """Each once, whichever way it is written."""
        answer = await booted.ClaimAgents(claim(MAYOR, MAYOR.agent))

        assert [str(MAYOR)] == [each.agent.name for each in answer.claims]

    @pytest.mark.parametrize(
        ("asked", "reason"),
        [
            pytest.param(
                claim(name=SECOND), Reason.INSTANCE_NOT_FOUND, id="no instance"
            ),
            pytest.param(claim(boot=OTHER_BOOT), Reason.LEASE_FENCED, id="other boot"),
            pytest.param(claim(boot=""), Reason.FIELD_REQUIRED, id="no boot"),
            pytest.param(claim(POLECAT), Reason.AGENT_NOT_FOUND, id="no agent"),
            pytest.param(claim("a/b"), Reason.NAME_MALFORMED, id="malformed"),
            pytest.param(claim(limit=-1), Reason.FIELD_INVALID, id="limit"),
            pytest.param(claim(renew=True), Reason.FIELD_INVALID, id="whose"),
            pytest.param(
                claim(*(f"a{n}" for n in range(501))), Reason.FIELD_INVALID, id="many"
            ),
        ],
    )
    async def test_refuses(self, booted, asked, reason):
        """And gives nothing."""
        assert reason is (await refused(booted.ClaimAgents(asked))).reason
        found = await booted.GetAgent(pb.GetAgentRequest(name=str(MAYOR)))
        assert not found.agent.HasField("lease")

    async def test_refuses_what_another_holds(self, booted):
        """The refusal names the holder."""
        await booted.ClaimAgents(claim())
        await booted.RegisterInstance(instance(SECOND, OTHER_BOOT))

        asked = claim(MAYOR, name=SECOND, boot=OTHER_BOOT)
        error = await refused(booted.ClaimAgents(asked))

        assert (Reason.LEASE_HELD, str(FIRST)) == (
            error.reason,
            error.metadata["holder"],
        )

    async def test_refuses_an_instance_that_drains(self, booted):
        """It is to become empty."""
        await booted.AnnounceDrain(pb.AnnounceDrainRequest(parent=PARENT))

        assert Reason.DRAINING is (await refused(booted.ClaimAgents(claim()))).reason


class TestRelease:
    async def test_ends_agents_or_leaves_them_to_others(self, booted):
        """With a reason the agent has ended; what was not held is named."""
        await booted.ClaimAgents(claim())

        answer = await booted.ReleaseAgents(
            release(
                pb.LeaseRelease(agent=str(MAYOR), epoch=1, end_reason="completed"),
                pb.LeaseRelease(agent=str(POLECAT), epoch=1),
            )
        )

        assert [str(POLECAT)] == list(answer.skipped)
        found = await booted.GetAgent(pb.GetAgentRequest(name=str(MAYOR)))
        assert (resources.Agent.STATE_ENDED, "completed", "", 1) == (
            found.agent.state,
            found.agent.end_reason,
            found.agent.lease.instance,
            found.agent.lease.epoch,
        )

    @pytest.mark.parametrize(
        ("asked", "reason"),
        [
            pytest.param(
                release(pb.LeaseRelease(agent="a", epoch=1, end_reason="bored")),
                Reason.FIELD_INVALID,
                id="reason",
            ),
            pytest.param(
                release(pb.LeaseRelease(agent="", epoch=1)),
                Reason.NAME_MALFORMED,
                id="agent",
            ),
            pytest.param(release(boot=""), Reason.FIELD_REQUIRED, id="no boot"),
            pytest.param(
                release(*[pb.LeaseRelease(agent="a")] * 501),
                Reason.FIELD_INVALID,
                id="many",
            ),
        ],
    )
    async def test_refuses_bad_fields(self, booted, asked, reason):
        """No lease is given back then."""
        assert reason is (await refused(booted.ReleaseAgents(asked))).reason


class TestDrain:
    async def test_is_on_until_its_nonce_is_presented(self, booted):
        """Announced, seen, cleared; once it is off anything is ready."""
        await booted.RegisterInstance(instance(SECOND, OTHER_BOOT))
        announced = await booted.AnnounceDrain(
            pb.AnnounceDrainRequest(parent=PARENT, instances=[str(FIRST)])
        )
        status = await booted.GetDrainStatus(pb.GetDrainStatusRequest(parent=PARENT))
        asked = pb.ConfirmReadyRequest(parent=PARENT, nonce="another")
        wrong = await booted.ConfirmReady(asked)
        asked.nonce = announced.nonce
        right = await booted.ConfirmReady(asked)
        after = await booted.GetDrainStatus(pb.GetDrainStatusRequest(parent=PARENT))

        assert [str(FIRST)] == list(announced.instances)
        assert (True, announced.nonce, [str(FIRST)], True) == (
            status.draining,
            status.nonce,
            list(status.instances),
            status.HasField("announce_time"),
        )
        assert (False, True) == (wrong.cleared, right.cleared)
        assert pb.GetDrainStatusResponse() == after

    async def test_refuses_instances_that_are_not_there(self, booted):
        """Nothing is bound then."""
        asked = pb.AnnounceDrainRequest(parent=PARENT, instances=[str(SECOND)])

        error = await refused(booted.AnnounceDrain(asked))

        assert Reason.INSTANCE_NOT_FOUND is error.reason

    async def test_wants_a_nonce(self, booted):
        """Nothing is cleared by nothing."""
        asked = pb.ConfirmReadyRequest(parent=PARENT)

        error = await refused(booted.ConfirmReady(asked))

        assert (Reason.FIELD_REQUIRED, "nonce") == (
            error.reason,
            error.metadata["field"],
        )
