"""Nudges, in memory."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from services.chassis.names import AgentName, NudgeName
from services.registry import refusals
from services.registry.nudges import (
    DELIVERED_KEPT_S,
    DELIVERED_MAX,
    PENDING_MAX,
    Nudge,
    NudgeContent,
    Priority,
)
from tests.fakes.registry_town import MemoryTowns


@dataclass
class Kept:
    """A nudge, and when it was delivered."""

    nudge: Nudge
    deliver_time: datetime | None = None


class MemoryNudges(MemoryTowns):
    """NudgeStore in memory."""

    async def enqueue_nudge(
        self, name: NudgeName, content: NudgeContent
    ) -> tuple[Nudge, bool]:
        self._record(AgentName(name.town, name.agent))
        kept = self._nudges(name)
        if known := kept.get(name.nudge):
            if known.nudge.content != content:
                raise refusals.nudge_reused(name)
            return known.nudge, False
        if sum(one.deliver_time is None for one in kept.values()) >= PENDING_MAX:
            agent = AgentName(name.town, name.agent)
            raise refusals.inbox_full(agent, PENDING_MAX)
        now = self._now()
        expires = now + timedelta(seconds=content.ttl_s) if content.ttl_s else None
        nudge = Nudge(name, content, now, expires)
        kept[name.nudge] = Kept(nudge)
        return nudge, True

    async def list_nudges(self, name: AgentName) -> list[Nudge]:
        self._record(name)
        kept = self._nudges(name).values()
        pending = [one.nudge for one in kept if one.deliver_time is None]
        # Sorting is stable: within a priority the oldest stay in front.
        return sorted(
            pending, key=lambda one: one.content.priority is not Priority.URGENT
        )

    async def acknowledge_nudge(self, name: NudgeName) -> None:
        kept = self._nudges(name)
        if name.nudge not in kept:
            raise refusals.nudge_not_found(name)
        if kept[name.nudge].deliver_time is not None:
            return
        found = kept.pop(name.nudge)
        kept[name.nudge] = Kept(found.nudge, self._now())
        delivered = [key for key, one in kept.items() if one.deliver_time]
        for key in delivered[:-DELIVERED_MAX]:
            del kept[key]

    def _nudges(self, name: AgentName | NudgeName) -> dict[str, Kept]:
        """Those that count still."""
        kept: dict[str, Kept]
        kept = self._town(name.town).nudges.setdefault(name.agent, {})
        now = self._now()
        for key, one in list(kept.items()):
            over = one.nudge.expire_time
            if one.deliver_time:
                over = one.deliver_time + timedelta(seconds=DELIVERED_KEPT_S)
            if over and over <= now:
                del kept[key]
        return kept
