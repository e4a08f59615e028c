"""What agents say of themselves, in memory."""

from __future__ import annotations

from services.chassis.names import AgentName
from services.registry import refusals
from services.registry.event_log import AgentEvent, EventPage
from services.registry.reports import KINDS, Report, Told
from services.registry.store import ANSWER_BYTES_MAX
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

    async def append_event(
        self, name: AgentName, event_type: str, data_json: str, request_id: str = ""
    ) -> AgentEvent:
        town, _ = self._town(name.town), self._record(name)
        log = town.events.setdefault(name.agent, {})
        for known, request in log.values():
            if request_id and request == request_id:
                if (known.type, known.data_json) != (event_type, data_json):
                    raise refusals.request_reused(request_id)
                return known
        number = town.last_events[name.agent] = town.last_events.get(name.agent, 0) + 1
        event = AgentEvent(number, event_type, data_json, self._now())
        log[number] = event, request_id
        bounds = self._event_log
        while len(log) > 1 and (
            len(log) > bounds.events
            or sum(each.size_bytes for each, _ in log.values()) > bounds.size_bytes
        ):
            del log[next(iter(log))]
        return event

    async def list_events(
        self, name: AgentName, *, after: int = 0, limit: int = 500
    ) -> EventPage:
        town, _ = self._town(name.town), self._record(name)
        log = town.events.get(name.agent, {})
        first = next(iter(log), town.last_events.get(name.agent, 0) + 1)
        found: list[AgentEvent] = []
        size_bytes = 0
        for event, _ in log.values():
            if event.id <= after:
                continue
            size_bytes += event.size_bytes
            if len(found) == limit or (found and size_bytes > ANSWER_BYTES_MAX):
                break
            found.append(event)
        return EventPage(tuple(found), max(0, first - after - 1))
