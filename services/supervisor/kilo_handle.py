"""One live Kilo server with one session: turns, events, its end."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from services.chassis.errors import Reason, ServiceError
from services.supervisor import kilo_events
from services.supervisor.kilo_api import KiloApi
from services.supervisor.kilo_database import Found, find_message, last_message_id
from services.supervisor.kilo_env import KiloConfig
from services.supervisor.kilo_events import Translator, status_of, turn_end_of
from services.supervisor.kilo_ids import message_id_for, part_id_for
from services.supervisor.runtime import (
    EventKind,
    EventSink,
    ExitReport,
    Launch,
    Message,
    Mode,
    RuntimeEvent,
    Status,
    Stored,
    TurnEnd,
)
from services.supervisor.spawn import Child

STORED_S = 60.0  # a first prompt waits for plugins and models to load
STORED_POLL_S = 0.5
ABORT_S = 5.0
GRACE_MIN_S = 5.0  # Kilo stores what it has of a cut turn in about one second
UNANSWERED_S = 15.0  # an idle session that long after a prompt will not answer it
RECONNECT_S = 0.2


@dataclass(slots=True)
class Turn:
    """The message that is being worked on."""

    inbox_id: str
    message_id: str  # Kilo's
    began: float
    stored: asyncio.Event = field(default_factory=asyncio.Event)
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    answering: bool = False
    refused: str = ""  # what Kilo said instead of storing it


class KiloHandle:
    """Made by KiloRuntime once the server answers and the session is chosen."""

    def __init__(
        self,
        launch: Launch,
        child: Child,
        api: KiloApi,
        *,
        port: int,
        session_id: str,
        resumed: bool,
        database: Path,
        config: KiloConfig,
        on_event: EventSink,
        on_end: Callable[[], None],
    ) -> None:
        self.port: int | None = port
        self.session_id: str | None = session_id
        self.resumed = resumed
        self._session = session_id
        self._child = child
        self._api = api
        self._database = database
        self._config = config
        self._on_event = on_event
        self._on_end = on_end
        self._model = config.resolve(launch.spec.model) or config.resolve("")
        # The mayor reads its instructions from a file in its workspace.
        self._system = launch.spec.system_prompt if launch.role != "mayor" else ""
        self._translator = Translator(session_id)
        self._turn: Turn | None = None
        self._sent: tuple[str, str] = ("", "")  # inbox id and Kilo's, of the last one
        self._last_id: str | None = None
        self._connected = asyncio.Event()
        self._follower = asyncio.create_task(self._follow(), name=f"kilo-{child.pid}")
        self._finish = asyncio.create_task(
            self._see_out(), name=f"kilo-end-{child.pid}"
        )

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def started_ticks(self) -> int:
        return self._child.identity.started_ticks

    async def connected(self) -> None:
        """Waits until its events arrive: what happens before is not seen."""
        await self._connected.wait()
        if self.resumed:
            self._last_id = await asyncio.to_thread(
                last_message_id, self._database, self._session
            )

    async def deliver(self, message: Message, mode: Mode = Mode.ADD) -> None:
        """Returns when the message is stored: Kilo accepts a prompt before that, and an
        abort in between would drop it without a trace."""
        self._check_running()
        if not message.text and mode is Mode.ADD:
            self._emit_turn(EventKind.TURN_OPENED, "turn.empty", {}, message.id)
            self._emit_turn(
                EventKind.TURN_CLOSED, "turn.empty", {}, message.id, TurnEnd.COMPLETED
            )
            return
        if self._turn is not None:
            raise ServiceError(
                Reason.RUNTIME_UNREACHABLE,
                "cannot deliver a message while another one's turn runs: wait for its "
                "end or abort it",
            )
        turn = Turn(message.id, await self._kilo_id(message.id, mode), time.monotonic())
        self._turn, self._sent = turn, (message.id, turn.message_id)
        try:
            await self._api.prompt(self._session, self._prompt(turn, message.text))
            await self._until_stored(turn)
        except ServiceError:
            if self._turn is turn:
                self._turn = None
            raise

    async def find_message(self, message_id: str) -> Stored:
        self._check_running()
        return (await self._find(message_id)).stored

    async def abort(self) -> None:
        """Ends the turn. Kilo tells of it by itself, but for a turn that had not
        really begun: that one is closed here."""
        self._check_running()
        await self._api.abort(self._session)
        turn = self._turn
        if turn is None:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ABORT_S):
                await turn.closed.wait()
        self._close(turn, TurnEnd.INTERRUPTED, "turn.aborted", {})

    async def set_model(self, model: str, small_model: str = "") -> None:
        """From the next message on. A small model is only read at a start."""
        self._check_running()
        self._model = self._config.require(model)

    async def status(self) -> Status:
        self._check_running()
        return status_of(await self._api.status(self._session))

    async def stop(self, grace_s: float = 10.0) -> ExitReport:
        if self._child.running:
            with contextlib.suppress(ServiceError, TimeoutError):
                async with asyncio.timeout(2 * ABORT_S):
                    if self._turn or await self.status() is not Status.IDLE:
                        await self.abort()
            # An open event stream makes Kilo take seconds longer to end.
            await self._end_follower()
            await self._child.terminate(max(grace_s, GRACE_MIN_S))
        return await self.wait()

    async def wait(self) -> ExitReport:
        return await asyncio.shield(self._finish)

    async def _see_out(self) -> ExitReport:
        report = await self._child.wait()
        await self._end_follower()
        await self._api.close()
        self._turn = None
        self._on_end()
        return report

    async def _end_follower(self) -> None:
        self._follower.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._follower

    def _check_running(self) -> None:
        if not self._child.running:
            raise ServiceError(
                Reason.RUN_NOT_RUNNING,
                "cannot reach kilo: its process has ended; start the agent again",
                pid=self.pid,
            )

    async def _kilo_id(self, inbox_id: str, mode: Mode) -> str:
        if mode is Mode.CONTINUE:
            found = await self._find(inbox_id)
            if found.message_id:
                return found.message_id
        sent_before, message_id = self._sent
        if sent_before == inbox_id:  # again, after a failure: the same row, not two
            return message_id
        return message_id_for(inbox_id, time.time_ns() // 1_000_000, self._last_id)

    def _prompt(self, turn: Turn, text: str) -> dict[str, object]:
        part = {"id": part_id_for(turn.message_id), "type": "text", "text": text}
        body: dict[str, object] = {"messageID": turn.message_id, "parts": [part]}
        if self._model:  # on every turn: a session sticks to the last one it was given
            body["model"] = self._model.as_json()
        if self._system:
            body["system"] = self._system
        return body

    async def _until_stored(self, turn: Turn) -> None:
        deadline = time.monotonic() + STORED_S
        while not turn.stored.is_set():
            self._check_running()
            if turn.refused or time.monotonic() > deadline:
                raise ServiceError(
                    Reason.RUNTIME_UNREACHABLE,
                    "cannot hand kilo the message: "
                    + (turn.refused or "it accepted it and did not store it in time"),
                )
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(STORED_POLL_S):
                    await turn.stored.wait()
            if await self._api.has_message(self._session, turn.message_id):
                turn.stored.set()

    async def _find(self, inbox_id: str) -> Found:
        return await asyncio.to_thread(
            find_message, self._database, self._session, inbox_id
        )

    async def _follow(self) -> None:
        """Reads events for as long as the process lives, over any loss."""
        while self._child.running:
            with contextlib.suppress(ServiceError):
                async with aclosing(self._api.events()) as events:
                    async for event in events:
                        await self._on_raw(event)
            await asyncio.sleep(RECONNECT_S)

    async def _on_raw(self, event: Mapping[str, Any]) -> None:
        name = str(event.get("type"))
        properties = event.get("properties")
        properties = properties if isinstance(properties, Mapping) else {}
        if name == kilo_events.TURN_CLOSE and self._translator.concerns(properties):
            await self._on_turn_close(name, properties)
            return
        if self._translator.concerns(properties):
            self._note(name, properties)
        translated = self._translator.translate(name, properties)
        if translated is not None:
            self._on_event(translated)
        if name in kilo_events.LIFE_SIGNS:
            self._connected.set()
            await self._check_turn()

    def _note(self, name: str, properties: Mapping[str, Any]) -> None:
        """What an event says of the message that is being worked on."""
        turn, info = self._turn, properties.get("info")
        if name == kilo_events.MESSAGE and isinstance(info, Mapping):
            self._last_id = str(info.get("id"))
            if turn and self._last_id == turn.message_id:
                turn.stored.set()
            if turn and info.get("parentID") == turn.message_id:
                turn.answering = True
        elif name == kilo_events.ERROR and turn and not turn.stored.is_set():
            turn.refused = str(properties.get("error"))[:300]

    async def _on_turn_close(self, name: str, properties: Mapping[str, Any]) -> None:
        reason, turn = turn_end_of(properties.get("reason")), self._turn
        if turn is None:
            self._emit_turn(EventKind.TURN_CLOSED, name, properties, None, reason)
        elif turn.answering or await self._is_over(turn, reason):
            self._close(turn, reason, name, properties)
        else:  # of a turn that Kilo began by itself; ours waits behind it
            self._on_event(RuntimeEvent(EventKind.OTHER, name, properties))

    async def _is_over(self, turn: Turn, reason: TurnEnd) -> bool:
        """Whether a turn that closed before any answer was ours: an idle session has
        nothing waiting, and an answer that was not seen is in the database."""
        try:
            if await self.status() is not Status.IDLE:
                return False
            if reason is not TurnEnd.COMPLETED:
                return True
            return (await self._find(turn.inbox_id)).stored is Stored.ANSWERED
        except ServiceError:
            return False  # the next heartbeat asks again

    async def _check_turn(self) -> None:
        """On each sign of life: closes a turn whose end was missed, and makes one that
        waits for the network try again."""
        turn = self._turn
        if turn is None or not turn.stored.is_set():
            return
        with contextlib.suppress(ServiceError):
            status = await self._api.status(self._session)
            match status_of(status):
                case Status.OFFLINE:
                    await self._api.retry_network(str(status.get("requestID")))
                case Status.IDLE:
                    await self._close_missed(turn)

    async def _close_missed(self, turn: Turn) -> None:
        found = await self._find(turn.inbox_id)
        if found.stored is Stored.ANSWERED:
            reason = TurnEnd.ERROR if found.failed else TurnEnd.COMPLETED
        elif found.stored is Stored.UNFINISHED:
            reason = TurnEnd.INTERRUPTED
        elif time.monotonic() - turn.began > UNANSWERED_S:
            reason = TurnEnd.ERROR
        else:
            return
        self._close(turn, reason, "turn.found_closed", {})

    def _close(
        self, turn: Turn, reason: TurnEnd, name: str, data: Mapping[str, object]
    ) -> None:
        """Closes a turn once, whoever comes first."""
        if self._turn is turn:
            self._turn = None
            turn.closed.set()
            self._emit_turn(EventKind.TURN_CLOSED, name, data, turn.inbox_id, reason)

    def _emit_turn(
        self,
        kind: EventKind,
        name: str,
        data: Mapping[str, object],
        message_id: str | None,
        reason: TurnEnd | None = None,
    ) -> None:
        self._on_event(RuntimeEvent(kind, name, data, message_id, reason))
