"""What was revoked, in memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

from services.chassis.names import AgentName
from services.registry import refusals
from services.registry.revocations import ENTRIES_MAX, News, Revocation, Revoked
from tests.fakes.registry_town import MemoryTowns

_LONG_AGO: Final = datetime.min.replace(tzinfo=UTC)


@dataclass
class _List:
    """Entries of a town, each with the time at which it can be forgotten."""

    token_ids: dict[str, datetime] = field(default_factory=dict)
    runs: dict[str, datetime] = field(default_factory=dict)
    generation: int = 0
    generation_until: datetime = _LONG_AGO
    changed: int = 0
    # agent → run, epoch, when the last token of it expires
    current: dict[str, tuple[str, int, datetime]] = field(default_factory=dict)

    def forget(self, now: datetime) -> bool:
        """Drops what is pointless; whether there was something."""
        before = self.shown()
        self.token_ids = {id: at for id, at in self.token_ids.items() if at > now}
        self.runs = {run: at for run, at in self.runs.items() if at > now}
        self.current = {a: run for a, run in self.current.items() if run[2] > now}
        if self.generation and self.generation_until <= now:
            self.generation = 0
        return before != self.shown()

    def shown(self) -> Revoked:
        return Revoked(frozenset(self.token_ids), frozenset(self.runs), self.generation)


class MemoryRevocations(MemoryTowns):
    """RevocationStore in memory."""

    _lists: dict[str, _List]
    _revision = 0

    async def revoke(self, town: str, revocation: Revocation) -> int:
        self._check()
        now = self._now()
        until = now + revocation.kept_for
        found = self._all_lists().setdefault(town, _List())
        found.forget(now)
        ids = {**found.token_ids, **dict.fromkeys(revocation.token_ids, until)}
        runs = {**found.runs, **dict.fromkeys(revocation.runs, until)}
        for kept, before in ((ids, found.token_ids), (runs, found.runs)):
            if ENTRIES_MAX < len(kept) > len(before):
                raise refusals.too_many_revocations(town, ENTRIES_MAX)
            kept |= {k: at for k, at in before.items() if at > until}
        found.token_ids, found.runs = ids, runs
        if revocation.everything:
            found.generation = max(found.generation, int(now.timestamp()) + 1)
            found.generation_until = max(found.generation_until, until)
        self._changed(found)
        return found.generation

    async def begin_run(
        self, name: AgentName, epoch: int, run: str, kept_for: timedelta
    ) -> None:
        self._check()
        found = self._all_lists().setdefault(name.town, _List())
        news = found.forget(self._now())
        until = self._now() + kept_for
        if old := found.current.get(name.agent):
            if old[1] > epoch:
                raise refusals.lease_fenced(name, "", "", old[1])
            if old[0] == run:
                until = max(until, old[2])
            else:
                found.runs[f"{name.agent}/{old[0]}"] = old[2]
                news = True
        found.current[name.agent] = (run, epoch, until)
        if news:
            self._changed(found)

    async def revocations(self, since: int = 0) -> News:
        self._check()
        for found in self._all_lists().values():
            if found.forget(self._now()):
                self._changed(found)
        whole = since <= 0 or since > self._revision
        towns = {
            town: found.shown()
            for town, found in self._all_lists().items()
            if whole or found.changed > since
        }
        return News(self._revision, towns, whole)

    def _all_lists(self) -> dict[str, _List]:
        if not hasattr(self, "_lists"):
            self._lists = {}
        return self._lists

    def _changed(self, found: _List) -> None:
        self._revision += 1
        found.changed = self._revision

    def _check(self) -> None:
        if self.failure is not None:
            raise self.failure
