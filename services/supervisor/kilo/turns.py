"""Follows the events of one Kilo session, and says of each message when its turn ends.

Kilo says so once, never or too early: a lost stream, an abort before the first step, a
turn that it began by itself. So an end is checked against its status and its database.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog

from services.chassis.errors import ServiceError
from services.supervisor.kilo import events as kilo_events
from services.supervisor.kilo.api import KiloApi
from services.supervisor.kilo.database import Found, find_message, last_message_id
from services.supervisor.kilo.events import (
    Translator,
    last_turn,
    status_of,
    turn_end_of,
)
from services.supervisor.runtime import (
    EventKind,
    EventSink,
    RuntimeEvent,
    Status,
    Stored,
    TurnEnd,
)

log = structlog.get_logger()

UNANSWERED_S = 15.0  # an idle session that long after a prompt will not answer it
RECONNECT_S = 0.2
REFUSAL_LENGTH_MAX = 300
CAUGHT_UP_MAX = 50  # messages; a step of a turn is one
ABORTED = "MessageAbortedError"


@dataclass(slots=True)
class Turn:
    """The message that is being worked on."""

    inbox_id: str
    message_id: str  # Kilo's
    began: float = field(default_factory=time.monotonic)
    stored: asyncio.Event = field(default_factory=asyncio.Event)
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    answering: bool = False
    aborted: bool = False  # on our request
    refused: str = ""  # what Kilo said instead of storing it


class Turns:
    """At most one turn at a time. `follow` runs for as long as the process lives."""

    def __init__(
        self, api: KiloApi, database: Path, session_id: str, on_event: EventSink
    ) -> None:
        self.current: Turn | None = None
        self.last_id: str | None = None  # of the newest message that is known
        self.connected = asyncio.Event()
        self._api = api
        self._database = database
        self._session = session_id
        self._on_event = on_event
        self._translator = Translator(session_id)
        self._offline = False
        self._telling = asyncio.Lock()

    async def load(self) -> None:
        """Learns where a restored session's ids end."""
        self.last_id = await asyncio.to_thread(
            last_message_id, self._database, self._session
        )

    async def follow(self) -> None:
        """Reads events over any loss, until it is cancelled."""
        while True:
            try:
                async with aclosing(self._api.events()) as events:
                    async for event in events:
                        async with self._telling:
                            await self._on_raw(event)
            except ServiceError:
                pass  # it is lost: once more
            except Exception:  # an event of a shape unheard of; turns must still end
                log.exception("kilo.event_unread")
            await asyncio.sleep(RECONNECT_S)

    async def catch_up(self) -> None:
        """Tells of the last turn what the session holds of it. Events that come
        meanwhile wait, so what is older is never told after what is newer."""
        async with self._telling:
            messages = await self._api.newest_messages(self._session, CAUGHT_UP_MAX)
            for message in last_turn(messages):
                info = {"info": message.get("info"), "sessionID": self._session}
                await self._on_raw({"type": kilo_events.MESSAGE, "properties": info})
                for part in message.get("parts") or ():
                    about = {"part": part, "sessionID": self._session}
                    await self._on_raw({"type": kilo_events.PART, "properties": about})
            status = await self._api.status(self._session)
            now = {"status": status, "sessionID": self._session}
            await self._on_raw({"type": kilo_events.STATUS, "properties": now})

    async def find(self, inbox_id: str) -> Found:
        """What the database says of a message."""
        return await asyncio.to_thread(
            find_message, self._database, self._session, inbox_id
        )

    async def status(self) -> Status:
        return status_of(await self._api.status(self._session))

    def close(
        self,
        turn: Turn,
        reason: TurnEnd,
        name: str,
        data: Mapping[str, object] | None = None,
    ) -> None:
        """Closes a turn once, whoever comes first."""
        if self.current is turn:
            self.current = None
            turn.closed.set()
            self.emit(EventKind.TURN_CLOSED, name, data or {}, turn.inbox_id, reason)

    def emit(
        self,
        kind: EventKind,
        name: str,
        data: Mapping[str, object],
        message_id: str | None,
        reason: TurnEnd | None = None,
    ) -> None:
        """One event about a turn."""
        self._on_event(RuntimeEvent(kind, name, data, message_id, reason))

    async def _on_raw(self, event: Mapping[str, Any]) -> None:
        name = str(event.get("type"))
        properties = event.get("properties")
        properties = properties if isinstance(properties, Mapping) else {}
        ours = self._translator.concerns(properties)
        if name == kilo_events.TURN_CLOSE and ours:
            await self._on_turn_close(name, properties)
            return
        if ours:
            self._note(name, properties)
        translated = self._translator.translate(name, properties)
        if translated is not None:
            self._on_event(translated)
        if name in kilo_events.LIFE_SIGNS:
            self.connected.set()
            await self._check()

    def _note(self, name: str, properties: Mapping[str, Any]) -> None:
        """What an event says of the message that is being worked on."""
        turn, info = self.current, properties.get("info")
        if name == kilo_events.MESSAGE and isinstance(info, Mapping):
            self.last_id = str(info.get("id"))
            if turn and self.last_id == turn.message_id:
                turn.stored.set()
            if turn and info.get("parentID") == turn.message_id:
                turn.answering = True
        elif name == kilo_events.STATUS:
            self._offline = status_of(properties.get("status")) is Status.OFFLINE
        elif name == kilo_events.ERROR and turn and not turn.stored.is_set():
            error = properties.get("error")
            # An abort is no refusal: it tells, late, of the turn before this one.
            if not (isinstance(error, Mapping) and error.get("name") == ABORTED):
                turn.refused = str(error)[:REFUSAL_LENGTH_MAX]

    async def _on_turn_close(self, name: str, properties: Mapping[str, Any]) -> None:
        reason, turn = turn_end_of(properties.get("reason")), self.current
        if turn is None:
            self.emit(EventKind.TURN_CLOSED, name, properties, None, reason)
        elif turn.answering or await self._is_over(turn, reason):
            self.close(turn, reason, name, properties)
        else:  # of a turn that Kilo began by itself; ours waits behind it
            self._on_event(RuntimeEvent(EventKind.OTHER, name, properties))

    async def _is_over(self, turn: Turn, reason: TurnEnd) -> bool:
        """Whether a turn that closed before any answer was ours: an idle session has
        nothing waiting, and an answer that was not seen is in the database."""
        try:
            if await self.status() is not Status.IDLE:
                return False
            if reason is TurnEnd.INTERRUPTED:
                # Else it is the late end of an aborted turn before this one.
                return turn.aborted
            if reason is TurnEnd.ERROR:
                return True
            return (await self.find(turn.inbox_id)).stored is Stored.ANSWERED
        except ServiceError:
            return False  # the next sign of life asks again

    async def _check(self) -> None:
        """On each sign of life: closes a turn whose end was missed, and makes one that
        waits for the network try again."""
        turn = self.current
        waits = turn is not None and turn.stored.is_set()
        if not waits and not self._offline:
            return
        with contextlib.suppress(ServiceError):
            status = await self._api.status(self._session)
            match status_of(status):
                case Status.OFFLINE:
                    await self._api.retry_network(str(status.get("requestID")))
                case Status.IDLE if turn is not None and waits:
                    await self._close_missed(turn)

    async def _close_missed(self, turn: Turn) -> None:
        found = await self.find(turn.inbox_id)
        if found.stored is Stored.ANSWERED:
            reason = TurnEnd.ERROR if found.failed else TurnEnd.COMPLETED
        elif found.stored is Stored.UNFINISHED:
            reason = TurnEnd.INTERRUPTED
        elif time.monotonic() - turn.began > UNANSWERED_S:
            reason = TurnEnd.ERROR
        else:
            return
        self.close(turn, reason, "turn.found_closed")
