"""What agents say of themselves, in memory."""

from __future__ import annotations

from services.chassis.names import AgentName
from services.registry.reports import KINDS, Report, Told
from tests.fakes.registry_town import MemoryTowns

_WORDS = {kind: word for word, kind in KINDS.items()}


class MemoryCallbacks(MemoryTowns):
    """CallbackStore in memory."""

    async def report(self, name: AgentName, report: Report) -> str:
        town, _ = self._town(name.town), self._record(name)
        told = town.reports.setdefault(name.agent, {})
        told[_WORDS[type(report)]] = Told(report, self._now())
        drain = self._drain(town)
        return drain.nonce if drain else ""

    async def reports(self, name: AgentName) -> list[Told]:
        town, _ = self._town(name.town), self._record(name)
        told = town.reports.get(name.agent, {})
        return [told[kind] for kind in KINDS if kind in told]
