"""What agents say of themselves, in Redis."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import datetime
from typing import Any, Final

from services.chassis.names import AgentName
from services.registry.event_log import AgentEvent, EventPage, event_bytes
from services.registry.redis_town import RedisTown, time_of
from services.registry.reports import KINDS, Completion, Outcome, Report, Told
from services.registry.store import ANSWER_BYTES_MAX

_WORDS: Final = {kind: word for word, kind in KINDS.items()}


class RedisCallbacks:
    """CallbackStore over Redis."""

    def __init__(self, town: RedisTown) -> None:
        self._redis = town

    async def report(self, name: AgentName, report: Report) -> str:
        answer = await self._redis.change(
            "report_agent",
            name.town,
            json.dumps(asdict(report), default=datetime.isoformat),
            agent=name.agent,
            kind=_WORDS[type(report)],
        )
        nonce: bytes = answer.values[0]
        return nonce.decode()

    async def reports(self, name: AgentName) -> list[Told]:
        answer = await self._redis.ask(
            "read_reports", name.town, agent=name.agent, kinds=list(KINDS)
        )
        return [_told(kind.decode(), raw) for kind, raw in answer.values[0]]

    async def append_event(
        self, name: AgentName, event_type: str, data_json: str, request_id: str = ""
    ) -> AgentEvent:
        bounds = self._redis.terms.event_log
        answer = await self._redis.change(
            "append_event",
            name.town,
            data_json,
            agent=name.agent,
            type=event_type,
            request_id=request_id,
            size=event_bytes(event_type, data_json),
            events_max=bounds.events,
            bytes_max=bounds.size_bytes,
        )
        return _event(*answer.values)

    async def list_events(
        self, name: AgentName, *, after: int = 0, limit: int = 500
    ) -> EventPage:
        answer = await self._redis.ask(
            "list_events",
            name.town,
            agent=name.agent,
            after=after,
            limit=limit,
            bytes_max=ANSWER_BYTES_MAX,
        )
        dropped, found = answer.values
        return EventPage(tuple(_event(*each) for each in found), max(0, dropped))


def _event(number: int, raw: bytes) -> AgentEvent:
    head, _, data = raw.partition(b"\n")
    meta = json.loads(head)
    return AgentEvent(number, meta["type"], data.decode(), time_of(meta["created"]))


def _told(word: str, raw: bytes) -> Told:
    at, _, text = raw.partition(b"\n")
    fields: dict[str, Any] = json.loads(text)
    for key, value in fields.items():
        if key.endswith("_time") and value is not None:
            fields[key] = datetime.fromisoformat(value)
        elif isinstance(value, list):
            fields[key] = tuple(value)
    if KINDS[word] is Completion:
        fields["outcome"] = Outcome(fields["outcome"])
    return Told(KINDS[word](**fields), time_of(int(at)))
