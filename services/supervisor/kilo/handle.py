"""One live Kilo server with one session: messages, model, its end."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from pathlib import Path

from services.chassis.errors import Reason, ServiceError
from services.supervisor.child import Child
from services.supervisor.kilo.api import KiloApi
from services.supervisor.kilo.env import KiloConfig
from services.supervisor.kilo.ids import message_id_for, part_id_for
from services.supervisor.kilo.memo import Memo
from services.supervisor.kilo.turns import Turn, Turns
from services.supervisor.runtime import (
    EventKind,
    EventSink,
    ExitReport,
    Launch,
    Message,
    Mode,
    Status,
    Stored,
    TurnEnd,
)

STORED_S = 60.0  # a first prompt waits for plugins and models to load
STORED_POLL_S = 0.5
RUNNING_POLL_S = 1.0
ABORT_S = 5.0
GRACE_MIN_S = 5.0  # Kilo stores what it has of a cut turn in about one second


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
        sent: tuple[str, str] = ("", ""),
    ) -> None:
        self.port: int | None = port
        self.session_id: str | None = session_id
        self.resumed = resumed
        self._session = session_id
        self._child = child
        self._api = api
        self._config = config
        self._on_end = on_end
        self._model = config.resolve(launch.spec.model) or config.resolve("")
        # The mayor reads its instructions from a file in its workspace.
        self._system = launch.spec.system_prompt if launch.role != "mayor" else ""
        self._handover = launch.handover
        self._sent = sent  # inbox id and Kilo's, of the last one
        self._turns = Turns(api, database, session_id, on_event)
        self._follower = asyncio.create_task(
            self._turns.follow(), name=f"kilo-{child.pid}"
        )
        self._finish = asyncio.create_task(
            self._see_out(), name=f"kilo-end-{child.pid}"
        )

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def started_ticks(self) -> int:
        return self._child.identity.started_ticks

    async def connected(self, *, adopted: bool = False) -> None:
        """Waits until its events arrive. What happened before is not seen, but for what
        an earlier supervisor missed of its last turn."""
        await self._turns.connected.wait()
        if self.resumed or adopted:
            await self._turns.load()
        if adopted:
            await self._turns.catch_up()
        self._note_sent(self._sent)

    async def deliver(self, message: Message, mode: Mode = Mode.ADD) -> None:
        """Returns when the message is stored: Kilo accepts a prompt before that, and an
        abort in between would drop it without a trace."""
        self._check_running()
        turns = self._turns
        if not message.text and mode is Mode.ADD:
            name, end = "turn.empty", TurnEnd.COMPLETED
            turns.emit(EventKind.TURN_OPENED, name, {}, message.id)
            turns.emit(EventKind.TURN_CLOSED, name, {}, message.id, end)
            return
        if turns.current is not None:
            raise ServiceError(
                Reason.RUNTIME_UNREACHABLE,
                "cannot deliver a message while another one's turn runs: wait for its "
                "end or abort it",
            )
        turn = Turn(message.id, await self._kilo_id(message.id, mode))
        turns.current = turn
        self._note_sent((message.id, turn.message_id))
        try:
            await self._api.prompt(self._session, self._prompt(turn, message.text))
            await self._until_stored(turn)
        except ServiceError:
            if turns.current is turn:
                turns.current = None
            raise

    async def find_message(self, message_id: str) -> Stored:
        """A message whose turn may still run is waited for: what is in the database of
        it looks like a turn that was cut."""
        while True:
            self._check_running()
            stored = (await self._turns.find(message_id)).stored
            ended = stored in (Stored.ABSENT, Stored.ANSWERED)
            if ended or message_id != self._sent[0]:
                return stored
            if await self.status() is Status.IDLE:
                return (await self._turns.find(message_id)).stored
            await asyncio.sleep(RUNNING_POLL_S)

    def _note_sent(self, sent: tuple[str, str]) -> None:
        """Before it is: whoever comes after us must not send it under another id."""
        self._sent = sent
        if self._handover is not None:
            Memo(self.port or 0, self._session, sent).write(self._handover)

    async def abort(self) -> None:
        """Ends the turn. Kilo tells of it by itself, but for a turn that had not
        really begun: that one is closed here."""
        self._check_running()
        turn = self._turns.current
        if turn is not None:
            turn.aborted = True
        await self._api.abort(self._session)
        if turn is None:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ABORT_S):
                await turn.closed.wait()
        self._turns.close(turn, TurnEnd.INTERRUPTED, "turn.aborted")

    async def set_model(self, model: str, small_model: str = "") -> None:
        """From the next message on. A small model is only read at a start."""
        self._check_running()
        self._model = self._config.require(model)

    async def status(self) -> Status:
        self._check_running()
        return await self._turns.status()

    async def stop(self, grace_s: float = 10.0) -> ExitReport:
        if self._child.running:
            with contextlib.suppress(ServiceError, TimeoutError):
                async with asyncio.timeout(2 * ABORT_S):
                    if self._turns.current or await self.status() is not Status.IDLE:
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
        self._turns.current = None
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
            found = await self._turns.find(inbox_id)
            if found.message_id:
                return found.message_id
        sent_before, message_id = self._sent
        if sent_before == inbox_id:  # again, after a failure: the same row, not two
            return message_id
        now_ms = time.time_ns() // 1_000_000
        return message_id_for(inbox_id, now_ms, self._turns.last_id)

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
