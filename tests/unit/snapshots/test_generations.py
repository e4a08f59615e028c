"""Who may commit, on what, and what the record is."""

from __future__ import annotations

import pytest

from services.chassis.errors import Reason, ServiceError
from services.snapshots.generations import (
    DELTAS_MAX,
    Addition,
    AgentState,
    Claim,
    Format,
    Kind,
    Standing,
    check_advance,
    check_claim,
    check_match,
    check_parent,
    content_with,
)
from tests.support.snapshot_values import (
    INSTANCE,
    NAME,
    content,
    opaque,
    segment,
    snapshot,
)

OWNER = Claim(5, INSTANCE, "boot-1")
OTHER_BOOT = Claim(5, INSTANCE, "boot-2")
OTHER_INSTANCE = Claim(5, f"{INSTANCE}-b", "boot-1")
OWNED = AgentState(epoch=5, instance=INSTANCE, boot_id="boot-1")
UNBOUND = AgentState(epoch=5)
UNSEEN = AgentState()
STANDING = Standing(4096, 3, bytes(range(16)))


class TestAdvance:
    @pytest.mark.parametrize(
        ("state", "claim"),
        [
            pytest.param(UNSEEN, OWNER, id="never seen"),
            pytest.param(OWNED, OWNER, id="the same again"),
            pytest.param(OWNED, Claim(6, "other", "boot"), id="higher"),
            pytest.param(UNBOUND, OWNER, id="equal, bound to nobody"),
        ],
    )
    def test_rises_or_repeats(self, state: AgentState, claim: Claim) -> None:
        """A higher epoch takes the agent; its owner may say so twice."""
        check_advance(NAME, state, claim)

    @pytest.mark.parametrize(
        "claim",
        [
            pytest.param(Claim(4, INSTANCE, "boot-1"), id="lower"),
            pytest.param(OTHER_BOOT, id="equal, another boot"),
            pytest.param(OTHER_INSTANCE, id="equal, another instance"),
        ],
    )
    def test_never_goes_back(self, claim: Claim) -> None:
        """The refusal names the winner."""
        with pytest.raises(ServiceError) as refused:
            check_advance(NAME, OWNED, claim)

        assert Reason.LEASE_FENCED is refused.value.reason
        assert {"epoch": "5", "holder": INSTANCE} == refused.value.metadata


class TestClaim:
    @pytest.mark.parametrize(
        ("state", "claim"),
        [
            pytest.param(OWNED, OWNER, id="owner"),
            pytest.param(OWNED, Claim(5), id="a whole file under the epoch alone"),
            pytest.param(UNSEEN, Claim(), id="a whole file before any epoch"),
            pytest.param(UNSEEN, Claim(0), id="epoch 0 before any epoch"),
        ],
    )
    def test_lets_the_owner_write(self, state: AgentState, claim: Claim) -> None:
        """Only the highest epoch and who advanced it write."""
        check_claim(NAME, state, claim)

    @pytest.mark.parametrize(
        ("state", "claim"),
        [
            pytest.param(OWNED, Claim(4, INSTANCE, "boot-1"), id="older"),
            pytest.param(OWNED, Claim(6, INSTANCE, "boot-1"), id="not advanced"),
            pytest.param(OWNED, OTHER_BOOT, id="another boot"),
            pytest.param(OWNED, OTHER_INSTANCE, id="another instance"),
            pytest.param(OWNED, Claim(), id="no epoch"),
            pytest.param(UNSEEN, OWNER, id="never advanced"),
            pytest.param(
                UNSEEN, Claim(None, INSTANCE, "boot-1"), id="an instance, no epoch"
            ),
            pytest.param(UNBOUND, OWNER, id="bound to nobody"),
        ],
    )
    def test_refuses_everyone_else(self, state: AgentState, claim: Claim) -> None:
        """A stale writer never commits (promise P2)."""
        with pytest.raises(ServiceError) as refused:
            check_claim(NAME, state, claim)

        assert Reason.LEASE_FENCED is refused.value.reason
        assert str(state.epoch) == refused.value.metadata["epoch"]


class TestMatch:
    @pytest.mark.parametrize(("head", "wanted"), [(0, 0), (7, 7), (7, None)])
    def test_holds(self, head: int, wanted: int | None) -> None:
        """The head is the one that was expected, or none was."""
        check_match(NAME, head, wanted)

    @pytest.mark.parametrize(("head", "wanted"), [(0, 1), (7, 0), (7, 6), (7, 8)])
    def test_names_the_head(self, head: int, wanted: int) -> None:
        """Whoever lost the race learns what to read."""
        with pytest.raises(ServiceError) as refused:
            check_match(NAME, head, wanted)

        assert Reason.GENERATION_MISMATCH is refused.value.reason
        assert {"generation": str(head)} == refused.value.metadata


class TestContent:
    @pytest.mark.parametrize("head", [None, snapshot(3)])
    def test_a_base_begins_a_chain(self, head: object) -> None:
        """A base stands on nothing, whatever the head is."""
        base = Addition(segment("new"), 8192, 4096, 2, bytes(16))

        found = content_with(NAME, head, base)  # type: ignore[arg-type]

        assert (Format.PAGES, (base.segment,)) == (found.format, found.segments)

    def test_a_delta_goes_on_top(self) -> None:
        """The chain of the head, then the delta; sizes are those after it."""
        head = snapshot(3, content=content(deltas=2))
        delta = Addition(segment("new", Kind.DELTA), 8192, 4096, 2, bytes(16))

        found = content_with(NAME, head, delta)

        assert (*head.content.segments, delta.segment) == found.segments
        assert (8192, 2) == (found.size_bytes, found.page_count)

    def test_opaque_bytes_stand_alone(self) -> None:
        """Bytes that are no database have neither pages nor fingerprint."""
        found = content_with(NAME, snapshot(3), Addition(segment("x", Kind.OPAQUE), 5))

        assert Format.OPAQUE is found.format
        assert (5, 0, b"") == (found.size_bytes, found.page_count, found.fingerprint)


class TestParent:
    def test_many_deltas_fit(self) -> None:
        """A chain that nobody got round to compacting may still grow, to its limit."""
        head = snapshot(64, content=content(deltas=DELTAS_MAX - 1))

        assert DELTAS_MAX == len(check_parent(NAME, head, STANDING))

    @pytest.mark.parametrize(
        ("head", "standing"),
        [
            pytest.param(None, STANDING, id="no head"),
            pytest.param(snapshot(1, content=opaque()), STANDING, id="opaque head"),
            pytest.param(
                snapshot(65, content=content(deltas=DELTAS_MAX)),
                STANDING,
                id="too many deltas",
            ),
            pytest.param(
                snapshot(1), Standing(512, 3, STANDING.fingerprint), id="size"
            ),
            pytest.param(
                snapshot(1), Standing(4096, 4, STANDING.fingerprint), id="count"
            ),
            pytest.param(snapshot(1), Standing(4096, 3, bytes(16)), id="fingerprint"),
        ],
    )
    def test_anything_else_asks_for_a_base(
        self, head: object, standing: Standing
    ) -> None:
        """A delta that was not made from the head would make nonsense of it."""
        with pytest.raises(ServiceError) as refused:
            check_parent(NAME, head, standing)  # type: ignore[arg-type]

        assert Reason.PARENT_MISMATCH is refused.value.reason
