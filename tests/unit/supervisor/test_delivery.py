"""Messages are given once, in order, and leave the inbox only on proof."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from services.chassis.errors import Reason, ServiceError
from services.chassis.names import AgentName
from services.supervisor import delivery
from services.supervisor.delivery import Delivery
from services.supervisor.inbox import InboxMessage, Outcome
from services.supervisor.runtime import Message, Mode, Stored, TurnEnd

NAME = AgentName("t", "a")


@dataclass
class Stage:
    """Inbox, runtime and saver in one, with a record of what happened in order."""

    waiting: list[InboxMessage]
    stored: dict[str, Stored] = field(default_factory=dict)
    happened: list[str] = field(default_factory=list)
    refuse: list[ServiceError | None] = field(default_factory=list)
    unreachable: list[ServiceError] = field(default_factory=list)
    silent: bool = False  # turns do not close by themselves
    generation: int = 0
    settled: asyncio.Event = field(default_factory=asyncio.Event)

    async def pending(self, name: AgentName) -> list[InboxMessage]:
        return list(self.waiting)

    async def acknowledge(
        self,
        name: AgentName,
        message_id: str,
        *,
        epoch: int,
        generation: int,
        outcome: Outcome,
    ) -> None:
        if self.refuse and (refusal := self.refuse.pop(0)):
            raise refusal
        self.happened.append(f"ack {message_id} {outcome} {generation}")
        self.waiting = [one for one in self.waiting if one.id != message_id]
        if not self.waiting:
            self.settled.set()

    async def find_message(self, message_id: str) -> Stored:
        return self.stored.get(message_id, Stored.ABSENT)

    async def set_model(self, model: str, small_model: str = "") -> None:
        self.happened.append(f"model {model}")
        if model == "unknown":
            raise ServiceError(Reason.FIELD_INVALID, "cannot use model unknown")

    async def deliver(self, message: Message, mode: Mode = Mode.ADD) -> None:
        if self.unreachable:
            raise self.unreachable.pop(0)
        self.happened.append(f"{mode} {message.id}")
        if not self.silent:
            self.stored[message.id] = Stored.ANSWERED
            self.delivery.turn_closed(message.id, TurnEnd.COMPLETED)

    async def save(self) -> int:
        self.generation += 1
        self.happened.append(f"save {self.generation}")
        return self.generation

    delivery: Delivery = field(init=False)


@asynccontextmanager
async def delivering(
    stage: Stage, prompt: Message | None = None
) -> AsyncIterator[None]:
    stage.delivery = Delivery(NAME, 1, stage, stage, stage.save, lambda *_: None)  # type: ignore[arg-type]
    task = asyncio.create_task(stage.delivery.run(prompt))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def messages(*ids: str) -> list[InboxMessage]:
    return [InboxMessage(one, f"text of {one}") for one in ids]


async def test_in_order_each_saved_before_it_is_acknowledged() -> None:
    """A message is acknowledged with a generation that was saved after its turn."""
    stage = Stage(messages("1", "2"))

    async with delivering(stage):
        await asyncio.wait_for(stage.settled.wait(), 5)

    assert [
        "add 1",
        "save 1",
        "ack 1 delivered 1",
        "add 2",
        "save 2",
        "ack 2 delivered 2",
    ] == stage.happened


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        (Stored.UNANSWERED, ["continue 1", "save 1", "ack 1 delivered 1"]),
        (Stored.UNFINISHED, ["save 1", "ack 1 interrupted 1"]),
        (Stored.ANSWERED, ["save 1", "ack 1 delivered 1"]),
    ],
)
async def test_the_restored_session_decides(
    stored: Stored, expected: list[str]
) -> None:
    """After a crash no turn is doubled and none is lost."""
    stage = Stage(messages("1"), stored={"1": stored})

    async with delivering(stage):
        await asyncio.wait_for(stage.settled.wait(), 5)

    assert expected == stage.happened


async def test_the_prompt_comes_first() -> None:
    """A startup prompt is the first message of a fresh session."""
    stage = Stage(messages("1"))

    async with delivering(stage, Message("prompt", "begin")):
        await asyncio.wait_for(stage.settled.wait(), 5)

    assert "add prompt" == stage.happened[0]


async def test_a_prompt_that_failed_is_given_again_once() -> None:
    """A runtime that is away for a moment costs neither the prompt nor a second one."""
    away = ServiceError(Reason.RUNTIME_UNREACHABLE, "cannot reach the runtime: wait")
    stage = Stage(messages("1"), unreachable=[away])

    async with delivering(stage, Message("prompt", "begin")):
        await asyncio.wait_for(stage.settled.wait(), 10)

    assert ["add prompt", "add 1"] == [h for h in stage.happened if h[:3] == "add"]


async def test_a_lost_acknowledgement_is_repeated_without_a_second_turn() -> None:
    """When the registry is away after the turn, only the acknowledgement is redone."""
    away = ServiceError(Reason.STORE_UNAVAILABLE, "cannot reach the registry: wait")
    stage = Stage(messages("1"), refuse=[away])

    async with delivering(stage):
        await asyncio.wait_for(stage.settled.wait(), 10)

    assert 1 == stage.happened.count("add 1")
    assert "ack 1 delivered 2" == stage.happened[-1]


async def test_only_failures_in_a_row_make_it_wait_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In an inbox that is never empty, too: a message that was delivered ends a row."""
    rows: list[int] = []

    def backoff_s(failures: int) -> float:
        rows.append(failures)
        return 0.0

    monkeypatch.setattr(delivery, "backoff_s", backoff_s)
    away = ServiceError(Reason.STORE_UNAVAILABLE, "cannot reach the registry: wait")
    stage = Stage(messages("1", "2", "3", "4"), refuse=[away, away, None, away])

    async with delivering(stage):
        await asyncio.wait_for(stage.settled.wait(), 5)

    assert [1, 2, 1] == rows


async def test_a_fenced_run_stops_delivering() -> None:
    """Who lost the lease gives the agent nothing more."""
    fenced = ServiceError(Reason.LEASE_FENCED, "cannot acknowledge: epoch 2 holds it")
    stage = Stage(messages("1", "2"), refuse=[fenced])
    stage.delivery = Delivery(NAME, 1, stage, stage, stage.save, lambda *_: None)  # type: ignore[arg-type]

    await asyncio.wait_for(stage.delivery.run(None), 5)

    assert ["add 1", "save 1"] == stage.happened


async def test_a_message_wakes_the_delivery() -> None:
    """A hint makes a message go out at once, long before the next look."""
    stage = Stage([])

    async with delivering(stage):
        await asyncio.sleep(0)
        stage.waiting = messages("1")
        stage.delivery.wake()
        await asyncio.wait_for(stage.settled.wait(), 2)

    assert "add 1" == stage.happened[0]


async def test_one_at_a_time() -> None:
    """The second message waits until the turn of the first has closed."""
    stage = Stage(messages("1", "2"), silent=True)

    async with delivering(stage):
        while "add 1" not in stage.happened:
            await asyncio.sleep(0)
        for _ in range(20):
            await asyncio.sleep(0)
        assert ["add 1"] == stage.happened
        stage.delivery.turn_closed("1", TurnEnd.COMPLETED)
        while "add 2" not in stage.happened:
            await asyncio.sleep(0)


async def test_a_model_that_is_refused_holds_up_nobody() -> None:
    """The message was accepted: it is given to the model that the agent has."""
    stage = Stage([InboxMessage("1", "text", "unknown"), *messages("2")])

    async with delivering(stage):
        await asyncio.wait_for(stage.settled.wait(), 5)

    assert ["model unknown", "add 1", "save 1"] == stage.happened[:3]
    assert "ack 2 delivered 2" == stage.happened[-1]
