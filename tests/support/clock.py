"""Time that moves only when told."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


class ManualClock:
    """A Clock for tests; `advance` moves both kinds of time together."""

    def __init__(self, now: datetime = EPOCH) -> None:
        self._now = now
        self._monotonic_s = 1000.0

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic_s

    def advance(self, seconds: float) -> None:
        self._now += timedelta(seconds=seconds)
        self._monotonic_s += seconds

    def jump(self, seconds: float) -> None:
        """Moves the time of day alone, as an administrator or NTP does."""
        self._now += timedelta(seconds=seconds)
