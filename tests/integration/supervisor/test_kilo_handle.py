"""Turns end exactly once, whatever Kilo says, twice, late or not at all."""

import asyncio
import time
import uuid
from dataclasses import dataclass, field
from typing import cast

import pytest

from services.chassis.errors import Reason, ServiceError
from services.supervisor import spawn
from services.supervisor.kilo import handle as kilo_handle
from services.supervisor.kilo import turns as kilo_turns
from services.supervisor.kilo.api import KiloApi
from services.supervisor.kilo.env import read_config
from services.supervisor.kilo.handle import KiloHandle
from services.supervisor.runtime import (
    EventKind,
    Launch,
    Message,
    Mode,
    RunSpec,
    RuntimeEvent,
    Status,
    Stored,
    TurnEnd,
)
from tests.fakes.kilo_api import LOST, SESSION, FakeKilo
from tests.support.waiting import wait_until

pytestmark = pytest.mark.integration

COMPLETED = {"reason": "completed"}


@dataclass
class Town:
    kilo: FakeKilo
    handle: KiloHandle
    events: list = field(default_factory=list)

    @property
    def closed(self):
        return [
            (event.message_id, event.reason)
            for event in self.events
            if event.kind is EventKind.TURN_CLOSED
        ]


@pytest.fixture
async def town(tmp_path, monkeypatch):
    """A handle on a fake Kilo; the process behind it only sleeps."""
    monkeypatch.setattr(kilo_handle, "GRACE_MIN_S", 0.1)
    monkeypatch.setattr(kilo_handle, "ABORT_S", 0.2)
    kilo = FakeKilo(tmp_path / "kilo.db")
    launch = Launch(
        town="t",
        rig="r",
        agent="toast",
        run=f"test-{uuid.uuid4()}",
        role="polecat",
        spec=RunSpec("kilo"),
        home=tmp_path,
        workdir=tmp_path,
        tmpdir=tmp_path,
    )
    command = spawn.Command(("/bin/sleep", "60"), tmp_path, run=launch.run)
    events: list[RuntimeEvent] = []
    handle = KiloHandle(
        launch,
        spawn.start(command, lambda stream, data: None),
        cast(KiloApi, kilo),
        port=1,
        session_id=SESSION,
        resumed=True,
        database=tmp_path / "kilo.db",
        config=read_config('{"model": "p/one", "provider": {"p": {}}}'),
        on_event=events.append,
        on_end=lambda: None,
    )
    await handle.connected()
    yield Town(kilo, handle, events)
    await handle.stop(grace_s=0.1)


async def test_a_turn_ends_with_its_close(town):
    """Once, with the message's own id, however often Kilo says idle."""
    await town.handle.deliver(Message("m1", "hello"))
    parent = town.kilo.prompts[0]["messageID"]
    town.kilo.say("message.updated", info={"id": "a", "parentID": parent})
    town.kilo.say("session.idle")
    town.kilo.say("session.turn.close", **COMPLETED)
    town.kilo.say("session.idle")
    await wait_until(lambda: town.closed)

    assert [("m1", TurnEnd.COMPLETED)] == town.closed


async def test_a_turn_of_kilos_own_does_not_end_ours(town):
    """A background job's turn fails while our message waits behind it."""
    town.kilo.state = {"type": "busy"}
    await town.handle.deliver(Message("m1", "hello"))
    town.kilo.say("session.turn.close", reason="error")
    town.kilo.say("marker")
    await wait_until(lambda: "marker" in [event.name for event in town.events])

    assert [] == town.closed


async def test_a_turn_that_nobody_asked_for_closes_without_a_name(town):
    """It is worth a save, and no message's end."""
    town.kilo.say("session.turn.close", **COMPLETED)
    await wait_until(lambda: town.closed)

    assert [(None, TurnEnd.COMPLETED)] == town.closed


async def test_a_child_sessions_close_is_not_ours(town):
    """A sub-agent's end must not end the turn that waits for it."""
    await town.handle.deliver(Message("m1", "hello"))
    town.kilo.say("session.turn.close", sessionID="ses_child", reason="interrupted")
    town.kilo.say("marker")
    await wait_until(lambda: "marker" in [event.name for event in town.events])

    assert [] == town.closed


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        pytest.param(
            {"finish": "stop", "time": {"completed": 2}},
            TurnEnd.COMPLETED,
            id="answered",
        ),
        pytest.param(
            {"error": {"name": "APIError"}, "time": {"completed": 2}},
            TurnEnd.ERROR,
            id="failed",
        ),
        pytest.param({"time": {}}, TurnEnd.INTERRUPTED, id="cut"),
    ],
)
async def test_an_end_that_was_missed_is_found(town, info, expected):
    """The stream broke, the close was said to nobody: the database is asked."""
    await town.handle.deliver(Message("m1", "hello"))
    town.kilo.answer(0, **info)
    town.kilo.stream.put_nowait(LOST)
    await wait_until(lambda: town.closed)

    assert [("m1", expected)] == town.closed
    assert 2 == town.kilo.connections


async def test_a_message_that_is_never_answered_is_given_up(town, monkeypatch):
    """Idle and nothing came of it: an error after a time, and not before."""
    await town.handle.deliver(Message("m1", "hello"))
    town.kilo.say("server.heartbeat")
    town.kilo.say("marker")
    await wait_until(lambda: "marker" in [event.name for event in town.events])
    assert [] == town.closed

    monkeypatch.setattr(kilo_turns, "UNANSWERED_S", 0)
    town.kilo.say("server.heartbeat")
    await wait_until(lambda: town.closed)

    assert [("m1", TurnEnd.ERROR)] == town.closed


async def test_a_busy_session_is_waited_for(town, monkeypatch):
    """However long a turn takes."""
    monkeypatch.setattr(kilo_turns, "UNANSWERED_S", 0)
    town.kilo.state = {"type": "busy"}
    await town.handle.deliver(Message("m1", "hello"))
    town.kilo.say("server.heartbeat")
    town.kilo.say("marker")
    await wait_until(lambda: "marker" in [event.name for event in town.events])

    assert [] == town.closed


async def test_an_offline_session_is_told_to_try_again(town):
    """With each heartbeat, under the request's own id."""
    town.kilo.state = {"type": "offline", "requestID": "que_1"}
    await town.handle.deliver(Message("m1", "hello"))
    town.kilo.say("server.heartbeat")
    await wait_until(lambda: town.kilo.retried)

    assert ["que_1"] == town.kilo.retried
    assert Status.OFFLINE is await town.handle.status()


async def test_an_abort_closes_what_kilo_is_silent_about(town):
    """And a late word of Kilo's ends no other message."""
    await town.handle.deliver(Message("m1", "hello"))
    await town.handle.abort()
    town.kilo.say("session.turn.close", reason="interrupted")
    await wait_until(lambda: len(town.closed) > 1)

    assert [("m1", TurnEnd.INTERRUPTED), (None, TurnEnd.INTERRUPTED)] == town.closed


async def test_an_abort_that_kilo_tells_of_closes_once(town):
    """Whoever comes first."""
    town.kilo.tells_of_aborts = True
    await town.handle.deliver(Message("m1", "hello"))
    await town.handle.abort()

    assert [("m1", TurnEnd.INTERRUPTED)] == town.closed


async def test_a_turn_that_cannot_be_aborted_does_not_hold_up_the_end(town):
    """The server answers nothing any more: its process is ended all the same."""
    await town.handle.deliver(Message("m1", "hello"))
    town.kilo.unreachable = True

    report = await town.handle.stop(grace_s=0.1)

    assert (True, ()) == (report.requested, report.survivors)


async def test_a_prompt_that_was_not_stored_is_not_delivered(town, monkeypatch):
    """Accepted is not stored; tried again it is the same message, not a second one."""
    monkeypatch.setattr(kilo_handle, "STORED_S", 0)
    town.kilo.stores = False
    with pytest.raises(ServiceError) as refused:
        await town.handle.deliver(Message("m1", "hello"))
    monkeypatch.setattr(kilo_handle, "STORED_S", 5)
    town.kilo.stores = True
    tried_ms = time.time_ns() // 1_000_000
    await wait_until(lambda: time.time_ns() // 1_000_000 > tried_ms)
    await town.handle.deliver(Message("m1", "hello"))

    assert Reason.RUNTIME_UNREACHABLE is refused.value.reason
    first, second = town.kilo.prompts
    assert first == second


async def test_a_prompt_that_kilo_refuses_says_why(town):
    """Kilo's own words, without waiting for a message that will not come."""
    town.kilo.stores = False
    town.kilo.say("session.error", error={"data": {"message": "no such agent"}})
    with pytest.raises(ServiceError) as refused:
        await town.handle.deliver(Message("m1", "hello"))

    assert "no such agent" in refused.value.message


async def test_a_server_that_does_not_answer_is_told_of(town):
    """The message is not taken for delivered, and the next one may be tried."""
    town.kilo.unreachable = True
    with pytest.raises(ServiceError) as refused:
        await town.handle.deliver(Message("m1", "hello"))
    town.kilo.unreachable = False
    await town.handle.deliver(Message("m2", "hello"))

    assert Reason.RUNTIME_UNREACHABLE is refused.value.reason


async def test_a_turn_that_runs_is_not_taken_for_a_cut_one(town, monkeypatch):
    """Delivering failed though the turn had begun: what became of it is known only
    when the session is idle."""
    monkeypatch.setattr(kilo_handle, "RUNNING_POLL_S", 0.01)
    monkeypatch.setattr(kilo_handle, "STORED_S", -1)
    town.kilo.stores = False
    town.kilo.state = {"type": "busy"}
    with pytest.raises(ServiceError):
        await town.handle.deliver(Message("m1", "hello"))
    town.kilo.store(town.kilo.prompts[0]["messageID"], role="user")
    town.kilo.answer(0, time={})

    asked = asyncio.create_task(town.handle.find_message("m1"))
    town.kilo.say("marker")
    await wait_until(lambda: "marker" in [event.name for event in town.events])
    waited = not asked.done()
    town.kilo.finish(0)
    town.kilo.state = {"type": "idle"}

    assert waited
    assert Stored.ANSWERED is await asked


async def test_a_continuation_uses_the_stored_id(town):
    """The same message row and the same part row: nothing is added."""
    await town.handle.deliver(Message("m1", "hello"))
    await town.handle.abort()
    await town.handle.deliver(Message("m2", "other"))
    await town.handle.abort()

    await town.handle.deliver(Message("m1", "hello"), Mode.CONTINUE)

    assert town.kilo.prompts[0] == town.kilo.prompts[2]
    assert (
        town.kilo.prompts[0]["messageID"][4:]
        == (town.kilo.prompts[0]["parts"][0]["id"][4:])
    )


async def test_a_prompt_names_its_model(town):
    """Always: a session sticks to the last model it was given, a wrong one too."""
    await town.handle.deliver(Message("m1", "hello"))
    await town.handle.abort()
    await town.handle.deliver(Message("m2", "other"))

    model = {"providerID": "p", "modelID": "one"}
    assert [model, model] == [prompt["model"] for prompt in town.kilo.prompts]


async def test_an_empty_prompt_sends_nothing(town):
    """Its turn is over at once."""
    await town.handle.deliver(Message("m1", ""))

    assert [("m1", TurnEnd.COMPLETED)] == town.closed
    assert [] == town.kilo.prompts


async def test_after_the_end_nothing_can_be_asked(town):
    """Every call says that the run has ended; stop and wait do not mind."""
    await town.handle.stop(grace_s=0.1)

    for call in (
        town.handle.deliver(Message("m1", "hello")),
        town.handle.find_message("m1"),
        town.handle.status(),
        town.handle.abort(),
        town.handle.set_model("p/two"),
    ):
        with pytest.raises(ServiceError) as refused:
            await call
        assert Reason.RUN_NOT_RUNNING is refused.value.reason
    assert (await town.handle.stop()) == (await town.handle.wait())


async def test_a_message_of_an_earlier_run_is_found(town):
    """By the end of its id alone."""
    await town.handle.deliver(Message("m1", "hello"))
    assert Stored.UNANSWERED is await town.handle.find_message("m1")

    town.kilo.finish(0)

    assert Stored.ANSWERED is await town.handle.find_message("m1")
    assert Stored.ABSENT is await town.handle.find_message("m2")
