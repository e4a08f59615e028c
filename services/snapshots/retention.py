"""Which generations are kept: all of the last minutes, then ever fewer. Pure.

Periods are fixed stretches of UTC, and each lies within one of the next coarser kind:
so the last generation of an hour is also the last of its minute, and thinning early
or late, once or often, leaves the same.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from services.snapshots.store import Entry

_MINUTE: Final = timedelta(minutes=1)
_HOUR: Final = timedelta(hours=1)
_DAY: Final = timedelta(days=1)
_MICROSECOND: Final = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Tier:
    """Up to this age, the last generation of each period is kept; no period: all."""

    age: timedelta
    period: timedelta | None


DEFAULT: Final = (
    Tier(timedelta(minutes=10), None),
    Tier(timedelta(hours=24), _MINUTE),
    Tier(timedelta(days=7), _HOUR),
    Tier(timedelta(days=30), _DAY),
)


def to_drop(
    entries: Collection[Entry], now_us: int, tiers: Sequence[Tier] = DEFAULT
) -> list[int]:
    """The generations that no tier keeps, ascending; never the newest one."""
    if not entries:
        return []
    last = {tier.period: _last_of_periods(entries, tier.period) for tier in tiers}
    head = max(entry.generation for entry in entries)
    return sorted(
        entry.generation
        for entry in entries
        if entry.generation != head and not _kept(entry, now_us, tiers, last)
    )


def _kept(
    entry: Entry,
    now_us: int,
    tiers: Sequence[Tier],
    last: dict[timedelta | None, set[int]],
) -> bool:
    age_us = now_us - entry.create_time_us
    for tier in tiers:
        if age_us <= tier.age // _MICROSECOND:
            return tier.period is None or entry.generation in last[tier.period]
    return False


def _last_of_periods(entries: Collection[Entry], period: timedelta | None) -> set[int]:
    if period is None:
        return set()
    newest: dict[int, int] = {}
    for entry in entries:
        start = entry.create_time_us // (period // _MICROSECOND)
        newest[start] = max(entry.generation, newest.get(start, 0))
    return set(newest.values())
