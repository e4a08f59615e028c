"""Gives one run its messages: in order, one at a time, each proven by a save.

A message leaves the inbox only when its turn has closed and a generation saved after
that is durable. What to do with one after a crash is decided in `inbox.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, Protocol

import structlog

from services.chassis.errors import Reason, ServiceError
from services.chassis.names import AgentName
from services.supervisor.inbox import (
    Deliver,
    InboxMessage,
    Outcome,
    Settle,
    decide,
)
from services.supervisor.run import backoff_s
from services.supervisor.runtime import Handle, Message, Mode, TurnEnd

log = structlog.get_logger()

# Hints may be lost with a connection; the inbox itself is asked this often.
LOOK_INTERVAL_S: Final = 5.0


class Inbox(Protocol):
    """The registry's inbox of one agent."""

    async def pending(self, name: AgentName) -> list[InboxMessage]: ...

    async def acknowledge(
        self,
        name: AgentName,
        message_id: str,
        *,
        epoch: int,
        generation: int,
        outcome: Outcome,
    ) -> None: ...


class Delivery:
    """The messages of one run, from its start to its end."""

    def __init__(
        self,
        name: AgentName,
        epoch: int,
        handle: Handle,
        inbox: Inbox,
        save: Callable[[], Awaitable[int]],
        on_settled: Callable[[str, Outcome], None],
    ) -> None:
        self._name = name
        self._epoch = epoch
        self._handle = handle
        self._inbox = inbox
        self._save = save
        self._on_settled = on_settled
        self._wake = asyncio.Event()
        self._turns: dict[str, asyncio.Future[TurnEnd]] = {}
        self._failures = 0  # in a row
        self._closed = False
        self._giving = asyncio.Lock()  # held from a message's turn to its end

    def close(self) -> None:
        """No message is given from now on; one that was is settled."""
        self._closed = True
        self._wake.set()

    async def settled(self) -> None:
        """Returns when no message is on its way."""
        async with self._giving:
            return

    def wake(self) -> None:
        """Says that the inbox may hold something new."""
        self._wake.set()

    def turn_closed(self, message_id: str, reason: TurnEnd) -> None:
        """Says that the turn of a delivered message has closed."""
        turn = self._turns.get(message_id)
        if turn is not None and not turn.done():
            turn.set_result(reason)

    async def run(self, prompt: Message | None) -> None:
        """Delivers the startup prompt, if there is one, then the inbox, for ever.

        Ends by itself only when it is closed, the lease is lost or the process has
        ended. A prompt is given before all: a session that is resumed never sees it.
        """
        if prompt is not None:
            async with self._giving:
                if not await self._insist(partial(self._give, prompt)):
                    return
        while not self._closed and await self._insist(self._empty_inbox):
            pass

    async def _insist(self, step: Callable[[], Awaitable[object]]) -> bool:
        """Whether the step was done, with as many tries as it took; it never will be
        when the lease is lost or the process has ended."""
        while True:
            try:
                await step()
            except ServiceError as error:
                if error.reason in {Reason.RUN_NOT_RUNNING, Reason.LEASE_FENCED}:
                    return False
                self._failures += 1
                log.warning(
                    "message.delivery_failed",
                    agent=str(self._name),
                    reason=error.reason,
                    error=error.message,
                    failures=self._failures,
                )
                await asyncio.sleep(backoff_s(self._failures))
            else:
                self._failures = 0
                return True

    async def _empty_inbox(self) -> None:
        if self._closed:
            return
        self._wake.clear()
        for message in await self._inbox.pending(self._name):
            async with self._giving:
                if self._closed:
                    return
                await self._deliver(message)
            # An inbox that is never empty would add up what lies far apart.
            self._failures = 0
            self._wake.set()  # there may be more than one page
        try:
            async with asyncio.timeout(LOOK_INTERVAL_S):
                await self._wake.wait()
        except TimeoutError:
            return

    async def _deliver(self, message: InboxMessage) -> None:
        if message.model:
            await self._use_model(message)
        outcome = await self._give(Message(message.id, message.text))
        generation = await self._save()
        await self._inbox.acknowledge(
            self._name,
            message.id,
            epoch=self._epoch,
            generation=generation,
            outcome=outcome,
        )
        self._on_settled(message.id, outcome)

    async def _use_model(self, message: InboxMessage) -> None:
        """A model that the runtime refuses must not hold up the inbox for ever: the
        message was accepted, so it is given to the model that the agent has."""
        try:
            await self._handle.set_model(message.model)
        except ServiceError as error:
            if error.reason is not Reason.FIELD_INVALID:
                raise
            log.warning(
                "message.model_refused", agent=str(self._name), error=error.message
            )

    async def _give(self, message: Message) -> Outcome:
        """Sees to it that the session has the message and its turn, once."""
        match decide(await self._handle.find_message(message.id)):
            case Deliver(mode):
                await self._turn(message, mode)
                return Outcome.DELIVERED
            case Settle(outcome):
                return outcome

    async def _turn(self, message: Message, mode: Mode) -> TurnEnd:
        turn: asyncio.Future[TurnEnd] = asyncio.get_running_loop().create_future()
        self._turns[message.id] = turn
        try:
            await self._handle.deliver(message, mode)
            return await turn
        finally:
            del self._turns[message.id]
