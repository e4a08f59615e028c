"""Which segments of a chain become one, and what that costs over a long life."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.snapshots.compaction import SEGMENTS_MAX, Run, followers, plan
from services.snapshots.generations import Kind, Segment
from tests.support.snapshot_values import chain, content, snapshot


def sized(*sizes: int) -> tuple[Segment, ...]:
    """A chain of segments of these sizes, the base first."""
    return tuple(
        Segment(bytes([at]) * 32, Kind.DELTA if at else Kind.BASE, size, 1)
        for at, size in enumerate(sizes)
    )


def merge(segments: tuple[Segment, ...], run: Run) -> tuple[Segment, ...]:
    """The chain after the run, as large as its parts together."""
    total = sum(each.size_bytes for each in run.segments)
    return (*run.before, Segment(b"m" * 32, Kind.DELTA, total, 1))


class TestPlan:
    def test_short_chains_rest(self) -> None:
        """As many segments as a read may touch are left alone."""
        assert plan(chain(0)) is None
        assert plan(chain(SEGMENTS_MAX - 1)) is None
        assert plan(chain(SEGMENTS_MAX)) is not None

    @given(st.lists(st.integers(64, 10**9), min_size=1, max_size=65))
    def test_always_comes_to_a_short_chain(self, sizes: list[int]) -> None:
        """Whatever the sizes, one step ends with a chain that rests."""
        segments = sized(*sizes)
        run = plan(segments)
        if run is None:
            return

        assert segments == run.before + run.segments
        assert plan(merge(segments, run)) is None

    def test_large_deltas_are_left_behind(self) -> None:
        """What is far larger than all that came later is not written again."""
        segments = sized(10**9, 10**7, 10**6, *[1000] * 14)

        run = plan(segments)

        assert run == Run(segments[:3], segments[3:])

    def test_much_change_makes_a_base(self) -> None:
        """Deltas that come to half of the base are folded into it."""
        few, many = sized(10**6, *[30_000] * 16), sized(10**6, *[32_000] * 16)

        assert [False, True] == [run.folds for run in map(plan, (few, many)) if run]

    @pytest.mark.parametrize(
        "size",
        [
            pytest.param(lambda source: 5000, id="even"),
            pytest.param(lambda source: source.randrange(64, 100_000), id="mixed"),
            pytest.param(lambda source: 2 ** source.randrange(6, 24), id="wild"),
        ],
    )
    def test_costs_follow_what_was_saved(
        self, size: Callable[[random.Random], int]
    ) -> None:
        """In a day of saves that share nothing, what is written again is a small
        multiple of what was saved, folding included."""
        source = random.Random(1)
        segments = sized(250_000_000)
        saved = written = 0
        for _ in range(20_000):
            saved += (new := size(source))
            segments = (*segments, Segment(b"d" * 32, Kind.DELTA, new, 1))
            if run := plan(segments):
                written += sum(each.size_bytes for each in run.segments)
                segments = merge(segments, run)

        assert written < 8 * saved


class TestFollowers:
    def test_what_came_later(self) -> None:
        """Deltas that were saved during the merge stay on top of it."""
        run = plan(chain(16))
        assert run is not None

        found = followers(snapshot(content=content(deltas=18)), run)

        assert chain(18)[-2:] == found

    def test_needs_what_was_merged(self) -> None:
        """A chain that another base began, or somebody merged, is left alone."""
        run = plan(chain(16))
        assert run is not None

        for other in (content(), content(segments=chain(16, "other"))):
            assert followers(snapshot(content=other), run) is None
