"""Who is alive, who holds, who is chosen: the rules, as values."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from services.registry.leases import (
    Drain,
    Gap,
    Instance,
    InstanceState,
    Lease,
    active_drain,
    alive,
    choose,
    holder_of,
    judged,
)
from tests.support.clock import EPOCH

NOW = EPOCH


def at(seconds: float):
    return NOW + timedelta(seconds=seconds)


def instance(slot: str = "i", expires: float = 5, **changes: object) -> Instance:
    made = Instance(slot, f"boot-{slot}", "h:1", 0, at(-60), at(expires))
    return replace(made, **changes)  # type: ignore[arg-type]


class TestAlive:
    def test_until_the_deadline_and_not_at_it(self):
        """A deadline that has come is over."""
        assert alive(at(0.001), NOW, None)
        assert not alive(at(0), NOW, None)

    @pytest.mark.parametrize(
        ("expires", "until", "there"),
        [
            pytest.param(-20, 3, True, id="was alive when the gap began"),
            pytest.param(-31, 3, False, id="had expired before"),
            pytest.param(-30, 3, False, id="expired as it began"),
            pytest.param(-20, 0, False, id="a TTL after the gap"),
        ],
    )
    def test_a_gap_of_ours_costs_nobody_a_lease(self, expires, until, there):
        """Whoever could not renew because of us has a TTL to do so."""
        gap = Gap(start=at(-30), until=at(until))

        assert there == alive(at(expires), NOW, gap)


class TestHolder:
    def test_is_the_live_boot_that_the_lease_names(self):
        """Slot and boot both count, and the heartbeat deadline."""
        lease = Lease(3, "i", "boot-i")
        there = {"i": instance()}

        assert there["i"] == holder_of(lease, there, NOW, None)

    @pytest.mark.parametrize(
        ("lease", "there"),
        [
            pytest.param(None, [instance()], id="no lease"),
            pytest.param(Lease(3), [instance()], id="given back"),
            pytest.param(Lease(3, "i", "old"), [instance()], id="old boot"),
            pytest.param(Lease(3, "j", "boot-i"), [instance()], id="other slot"),
            pytest.param(Lease(3, "i", "boot-i"), [instance("i", -1)], id="expired"),
        ],
    )
    def test_else_is_nobody(self, lease, there):
        """Then the agent is claimable."""
        instances = {one.slot: one for one in there}

        assert holder_of(lease, instances, NOW, None) is None


class TestJudged:
    def test_says_what_each_does_by_name(self):
        """Ready, draining, expired; what expired long ago is left out."""
        found = [
            instance("d", -3601),
            instance("c", -3600),
            instance("b"),
            instance("a"),
        ]
        drain = Drain("n", NOW, {"a": "boot-a", "b": "an earlier boot"})

        states = [(one.slot, one.state) for one in judged(found, drain, NOW, None)]

        assert [
            ("a", InstanceState.DRAINING),
            ("b", InstanceState.READY),
            ("c", InstanceState.EXPIRED),
        ] == states


class TestDrain:
    @pytest.mark.parametrize(
        ("there", "on"),
        [
            pytest.param([instance("a"), instance("b", -1)], True, id="one is left"),
            pytest.param([instance("a", -1)], False, id="expired"),
            pytest.param([instance("a", boot_id="new")], False, id="new boot"),
            pytest.param([], False, id="gone"),
        ],
    )
    def test_is_on_while_one_that_it_binds_is_there(self, there, on):
        """What binds nobody drains nothing."""
        drain = Drain("n", NOW, {"a": "boot-a", "b": "boot-b"})
        instances = {one.slot: one for one in there}

        assert (drain if on else None) == active_drain(drain, instances, NOW, None)


class TestChoose:
    def test_takes_the_ready_one_with_the_fewest_leases(self):
        """Of equals the first by name."""
        found = [
            instance("d", lease_count=0, state=InstanceState.EXPIRED),
            instance("c", lease_count=1),
            instance("b", lease_count=1),
            instance("a", lease_count=0, state=InstanceState.DRAINING),
        ]

        chosen = choose(found)

        assert chosen is not None
        assert "b" == chosen.slot

    def test_takes_none_where_none_is_ready(self):
        """A draining one is no choice."""
        assert choose([instance(state=InstanceState.DRAINING)]) is None
