"""A run whose process is up: its events, its output, its saves and its messages."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from typing import Final

import structlog

from services.chassis.errors import ServiceError
from services.supervisor.credential import Credential
from services.supervisor.delivery import Delivery, Inbox
from services.supervisor.errand import report_failure
from services.supervisor.events import EventLog
from services.supervisor.inbox import Outcome
from services.supervisor.output import OutputBuffer
from services.supervisor.process_tree import ProcessIdentity, boot_id
from services.supervisor.run import Run
from services.supervisor.runtime import (
    EventKind,
    ExitReport,
    Handle,
    Kept,
    Launch,
    Message,
    Output,
    Runtime,
    RuntimeEvent,
    Status,
    TurnEnd,
)
from services.supervisor.saver import Saver
from services.supervisor.tree_kill import kill_tree

log = structlog.get_logger()

# Somebody waits for this save with an agent that does not run.
SAVE_AGAIN_S: Final = 1.0
# A stop answers SAVE_PENDING after this; the save itself goes on.
LAST_SAVE_S: Final = 30.0
# Whether a turn is over, where no event says so.
LOOK_AGAIN_S: Final = 2.0
# What a store that is away says, and one that does not answer.
PASSING: Final = frozenset({"UNAVAILABLE", "DEADLINE_EXCEEDED"})


class LiveRun:
    """One process of an agent, from its start until it is gone."""

    def __init__(
        self,
        run: Run,
        saver: Saver,
        output: OutputBuffer,
        events: EventLog,
        now: Callable[[], datetime],
        credential: Credential,
    ) -> None:
        self.run = run
        self.saver = saver
        self._output = output
        self._events = events
        self._now = now
        self._credential = credential
        self._handle: Handle | None = None
        self._delivery: Delivery | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._news = asyncio.Event()  # its status may have changed, or it has ended

    @property
    def handle(self) -> Handle:
        assert self._handle is not None, "start() comes first"
        return self._handle

    @property
    def process(self) -> ProcessIdentity:
        """The root of its tree."""
        handle = self.handle
        return ProcessIdentity(handle.pid, handle.started_ticks, boot_id())

    async def start(
        self,
        runtime: Runtime,
        launch: Launch,
        inbox: Inbox,
        prompt: str,
        kept: Kept | None = None,
    ) -> None:
        """Starts the process, or adopts one; returns when it is ready and its saves go
        on.

        The prompt is for a fresh session only: a resumed one never sees it.
        """
        try:
            # One that is adopted reads the file: its environment is what it was.
            token = await self._credential.begin(fresh=kept is None)
            environ = {**launch.environ, **token}
            launch = replace(launch, environ=environ)
            sinks = self._on_event, self._on_output
            if kept is None:
                self._handle = await runtime.start(launch, *sinks)
            else:
                self._handle = await runtime.adopt(launch, kept, *sinks)
            try:
                self._begin(self._handle, inbox, prompt)
                what = "agent.started" if kept is None else "agent.adopted"
                self.emit(what, session=self.run.session_id, resumed=self.run.resumed)
            except BaseException:
                await asyncio.shield(self._handle.stop(0.0))  # nobody else knows of it
                raise
        except BaseException:
            await self._credential.end()
            raise

    def _begin(self, handle: Handle, inbox: Inbox, prompt: str) -> None:
        run = self.run
        run.pid, run.port = handle.pid, handle.port or 0
        run.session_id, run.resumed = handle.session_id or "", handle.resumed
        run.active_at = self._now()
        self.saver.in_session(run.session_id)
        self._delivery = Delivery(
            run.name, run.epoch, handle, inbox, self.saver.save, self._on_settled
        )
        first = None
        if prompt and not handle.resumed:
            first = Message(f"prompt-{run.id}", prompt)
            run.message_count += 1
        self._tasks = [
            asyncio.create_task(step, name=f"{what} {run.name}")
            for what, step in (
                ("save", self.saver.keep_saving()),
                ("inbox", self._delivery.run(first)),
                ("token", self._credential.keep_fresh()),
            )
        ]
        for task in self._tasks:
            task.add_done_callback(report_failure)

    def wake(self) -> None:
        """Says that the inbox may hold something new."""
        if self._delivery is not None:
            self._delivery.wake()

    async def wait(self) -> ExitReport:
        """Waits until the process is gone, however it comes."""
        report = await self.handle.wait()
        await self._credential.end()
        return report

    async def stop(self, grace_s: float) -> ExitReport:
        """Ends the process and its tree. Deliveries end first: a message whose turn
        is cut stays in the inbox, and the next run settles it."""
        await self.end()
        try:
            await self.saver.let_go()
            report = await self.handle.stop(grace_s)
        except Exception as error:  # whatever it is, what is on disk must be saved
            log.exception("agent.end_failed", agent=str(self.run.name))
            self.run.error = str(error)
            killed, survivors = await kill_tree([self.run.id], [self.process])
            report = ExitReport(None, None, True, killed, survivors)
        await self._credential.end()
        return report

    async def finish(self, cut: asyncio.Event) -> None:
        """Gives no more messages, and returns when no turn is under way, the process
        has ended, or `cut` is set."""
        if self._delivery is None:
            return
        self._delivery.close()
        steps = [
            asyncio.ensure_future(step)
            for step in (self._idle(self._delivery), cut.wait())
        ]
        await asyncio.wait(steps, return_when=asyncio.FIRST_COMPLETED)
        for step in steps:
            step.cancel()

    async def _idle(self, delivery: Delivery) -> None:
        await delivery.settled()
        while self._tasks and not await self._says_idle():
            self._news.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_AGAIN_S):
                    await self._news.wait()

    async def _says_idle(self) -> bool:
        # Asked, not remembered: an event that was missed is never told again.
        try:
            return await self.handle.status() is Status.IDLE
        except ServiceError:
            return False

    async def end(self) -> None:
        """Ends what goes on beside the process; the saver itself stays open."""
        tasks, self._tasks = self._tasks, []
        self._news.set()
        for task in tasks:
            task.cancel()
        if tasks:  # one that has failed was told of, and must not stop the stop
            await asyncio.wait(tasks)

    def emit(self, type_: str, **data: object) -> None:
        """Adds an event of our own."""
        self._events.append(self.run.name.agent, type_, data)

    def _on_settled(self, message_id: str, outcome: Outcome) -> None:
        self.run.message_count += 1
        if outcome is Outcome.INTERRUPTED:
            self.run.interrupted = True
        self.emit("message.delivered", message=message_id, outcome=outcome.value)

    def _on_output(self, output: Output) -> None:
        self._output.append(output.data, output.dropped_bytes)

    def _on_event(self, event: RuntimeEvent) -> None:
        run = self.run
        if event.kind is not EventKind.ALIVE:
            run.active_at = self._now()
        match event.kind:
            case EventKind.STATUS if event.status is not None:
                run.status = event.status
                self._news.set()
            case EventKind.TOOL_STARTED:
                run.active_tools[event.call_id or event.name] = event.tool or ""
            case EventKind.TOOL_ENDED:
                run.active_tools.pop(event.call_id or event.name, None)
            case EventKind.TURN_CLOSED:
                self._on_turn_closed(event)
        self._events.append(run.name.agent, event.name, event.data)

    def _on_turn_closed(self, event: RuntimeEvent) -> None:
        self.run.active_tools.clear()
        self.saver.request()
        if event.message_id is not None and self._delivery is not None:
            reason = event.reason or TurnEnd.COMPLETED
            self._delivery.turn_closed(event.message_id, reason)


async def last_save(saver: Saver, *, patient: bool = False) -> bool:
    """Saves what a process left on disk; False when the store would not take it, at
    once or, when the caller is patient, in LAST_SAVE_S."""
    try:
        async with asyncio.timeout(LAST_SAVE_S):
            while True:
                try:
                    await saver.save()
                    return True
                except ServiceError as error:
                    if not patient or error.code.name not in PASSING:
                        raise
                await asyncio.sleep(SAVE_AGAIN_S)
    except (ServiceError, TimeoutError) as error:
        log.warning("agent.save_pending", agent=str(saver.name), error=str(error))
        return False
