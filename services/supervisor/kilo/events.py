"""Kilo's events → the supervisor's. Pure but for the set of tools that run now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from services.supervisor.runtime import EventKind, RuntimeEvent, Status, TurnEnd

Json = Mapping[str, Any]

# A doubled copy of every stored event, for another program's synchronising.
IGNORED = frozenset({"sync"})
LIFE_SIGNS = frozenset(
    {"server.heartbeat", "server.connected", "server.instance.disposed"}
)
TURN_OPEN, TURN_CLOSE = "session.turn.open", "session.turn.close"
MESSAGE, PART = "message.updated", "message.part.updated"
ERROR, STATUS, HEARTBEAT = "session.error", "session.status", "server.heartbeat"

_RUNNING, _DONE = frozenset({"pending", "running"}), frozenset({"completed", "error"})


class Translator:
    """Of one session: what belongs to another one is at most a sign of life."""

    def __init__(self, session_id: str) -> None:
        self._session_id = session_id
        self._tools: dict[str, str] = {}

    def concerns(self, properties: Json) -> bool:
        """Whether an event is of this session, or of none."""
        return session_of(properties) in (None, self._session_id)

    def translate(self, name: str, properties: Json) -> RuntimeEvent | None:
        """One event, None when it says nothing. Turn ends are left to the caller: it
        knows which message they end."""
        if name in IGNORED:
            return None
        if name in LIFE_SIGNS:
            return RuntimeEvent(EventKind.ALIVE, name, properties)
        if not self.concerns(properties):
            # A sub-agent at work: proof of life, and too much to pass on whole.
            if name != MESSAGE:
                return None
            return RuntimeEvent(
                EventKind.ALIVE, name, {"sessionID": session_of(properties)}
            )
        if name == TURN_OPEN:
            return RuntimeEvent(EventKind.TURN_OPENED, name, properties)
        if name == STATUS:
            status = status_of(properties.get("status"))
            return RuntimeEvent(EventKind.STATUS, name, properties, status=status)
        if name == PART:
            return self._part(properties)
        return RuntimeEvent(EventKind.OTHER, name, properties)

    def _part(self, properties: Json) -> RuntimeEvent:
        part = properties.get("part")
        kind, call, tool = EventKind.OTHER, None, None
        if isinstance(part, Mapping) and part.get("type") == "tool":
            call, tool = str(part.get("callID")), str(part.get("tool"))
            state = part.get("state")
            status = state.get("status") if isinstance(state, Mapping) else None
            if status in _RUNNING and call not in self._tools:
                self._tools[call] = tool
                kind = EventKind.TOOL_STARTED
            elif status in _DONE and self._tools.pop(call, ""):
                kind = EventKind.TOOL_ENDED
        return RuntimeEvent(kind, PART, properties, tool=tool, call_id=call)


def last_turn(messages: Sequence[Json]) -> Sequence[Json]:
    """Of a session's messages in order, those from the last question on."""
    asked = [
        number
        for number, message in enumerate(messages)
        if isinstance(info := message.get("info"), Mapping)
        and info.get("role") == "user"
    ]
    return messages[asked[-1] :] if asked else messages


def session_of(properties: Json) -> str | None:
    """The session an event is of; None for one of the whole server."""
    for holder in (properties, properties.get("info"), properties.get("part")):
        if isinstance(holder, Mapping) and isinstance(holder.get("sessionID"), str):
            return str(holder["sessionID"])
    return None


def status_of(status: object) -> Status:
    """Anything unknown is BUSY: it is not known to be idle."""
    name = status.get("type") if isinstance(status, Mapping) else None
    return Status(name) if name in frozenset(Status) else Status.BUSY


def turn_end_of(reason: object) -> TurnEnd:
    """`superseded` means that the next prompt waited already: the turn was done."""
    match reason:
        case "error":
            return TurnEnd.ERROR
        case "interrupted":
            return TurnEnd.INTERRUPTED
    return TurnEnd.COMPLETED
