"""What is kept: everything at first, then ever fewer, and always the head."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.snapshots.retention import DEFAULT, to_drop
from services.snapshots.store import Entry

DAY_US = 86_400_000_000
NOW_US = 20_000 * DAY_US
MINUTE_US = 60_000_000
HOUR_US = 3_600_000_000
AGES = st.integers(0, 40 * DAY_US)


def entries(ages_us: list[int]) -> list[Entry]:
    """Generations of these ages, the oldest first, as they were committed."""
    ordered = sorted(ages_us, reverse=True)
    return [Entry(number, NOW_US - age) for number, age in enumerate(ordered, 1)]


def kept(found: list[Entry], now_us: int = NOW_US) -> list[Entry]:
    dropped = set(to_drop(found, now_us))
    return [entry for entry in found if entry.generation not in dropped]


class TestTiers:
    def test_nothing_of_nothing(self) -> None:
        """An agent without generations loses none."""
        assert [] == to_drop([], NOW_US)

    def test_ten_minutes_are_kept_whole(self) -> None:
        """Each save of the last ten minutes can be gone back to."""
        found = entries([second * 1_000_000 for second in range(601)])

        assert [] == to_drop(found, NOW_US)

    def test_a_day_by_the_minute(self) -> None:
        """After ten minutes the last save of each minute stays."""
        age = NOW_US % MINUTE_US + 30 * MINUTE_US
        found = entries([age - 1, age - 2, age - 3, 0])

        assert [1, 2] == to_drop(found, NOW_US)

    def test_a_week_by_the_hour(self) -> None:
        """After a day the last save of each hour stays."""
        found = entries([30 * HOUR_US - minute * MINUTE_US for minute in range(60)])

        assert 2 >= len(kept(found)) >= 1

    def test_a_month_by_the_day(self) -> None:
        """After a week the last save of each day stays; after a month none."""
        found = entries([days * DAY_US - 1 for days in range(1, 60)] + [0])

        assert 31 == len(kept(found))

    def test_the_head_stays_for_ever(self) -> None:
        """An agent that slept for years wakes with its session."""
        assert [] == to_drop([Entry(7, 0)], NOW_US)

    def test_something_is_dropped(self) -> None:
        """Retention that never drops anything fills the disk."""
        found = entries([second * 1_000_000 for second in range(3600)])

        assert 10 * 60 + 50 + 2 >= len(kept(found))


class TestProperties:
    @given(st.lists(AGES, min_size=1, max_size=60))
    def test_the_head_is_never_dropped(self, ages_us: list[int]) -> None:
        """Whatever its age, the newest generation stays."""
        found = entries(ages_us)

        assert len(found) not in to_drop(found, NOW_US)

    @given(st.lists(AGES, min_size=1, max_size=60))
    def test_once_or_twice_is_the_same(self, ages_us: list[int]) -> None:
        """What was kept now is kept when asked again now."""
        once = kept(entries(ages_us))

        assert once == kept(once)

    @given(
        st.lists(AGES, min_size=1, max_size=60),
        st.lists(st.integers(0, 35 * DAY_US), max_size=4),
    )
    def test_sweeping_more_often_loses_nothing_more(
        self, ages_us: list[int], waits_us: list[int]
    ) -> None:
        """However often the sweep ran before, the same generations are left."""
        found = entries(ages_us)
        end_us = NOW_US + sum(waits_us)
        swept, now_us = kept(found), NOW_US
        for wait_us in waits_us:
            now_us += wait_us
            swept = kept(swept, now_us)

        assert kept(found, end_us) == swept

    @given(st.lists(AGES, min_size=1, max_size=60))
    def test_every_kept_stretch_has_one(self, ages_us: list[int]) -> None:
        """No minute, hour or day that had a generation is left without, in its tier."""
        found = entries(ages_us)
        left = {entry.create_time_us // MINUTE_US for entry in kept(found)}

        for entry in found:
            age_us = NOW_US - entry.create_time_us
            if age_us < 23 * HOUR_US:
                assert entry.create_time_us // MINUTE_US in left

    @given(st.lists(st.integers(-40 * DAY_US, 40 * DAY_US), min_size=1, max_size=40))
    def test_a_clock_that_jumps_costs_at_most_history(self, jumps: list[int]) -> None:
        """With times out of order, and from the future, the head still stays."""
        found = [Entry(n, NOW_US + jump) for n, jump in enumerate(jumps, 1)]

        assert len(found) not in to_drop(found, NOW_US)
        assert set(to_drop(found, NOW_US)) <= {entry.generation for entry in found}


@pytest.mark.parametrize("index", range(1, len(DEFAULT)))
def test_each_tier_begins_after_its_period(index: int) -> None:
    """A period is over before it is thinned: its last generation is known by then."""
    period = DEFAULT[index].period

    assert isinstance(period, timedelta)
    assert period <= DEFAULT[index - 1].age
