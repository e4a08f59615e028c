"""The real Kilo 7.7.9: conversation, death, restoration, and every kind of end.

A start costs seconds of processor time, so what can share a server does.
"""

import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from services.chassis.errors import Reason, ServiceError
from services.cli.stand_in_model import StandInModel
from services.cli.stand_in_script import digest
from services.supervisor.kilo.adapter import KiloRuntime
from services.supervisor.kilo.database import find_message
from services.supervisor.kilo.ids import message_id_for
from services.supervisor.kilo.turns import Turn
from services.supervisor.runtime import (
    EventKind,
    Message,
    Mode,
    Status,
    Stored,
    TurnEnd,
)
from tests.support.children import marked
from tests.support.kilo import KiloTown, installed_kilo
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.kilo,
    pytest.mark.integration,
    pytest.mark.timeout(240),
    pytest.mark.asyncio(loop_scope="module"),
]
INSTRUCTION = "Speak like a lighthouse keeper."


@pytest.fixture(scope="module")
def program():
    return installed_kilo()


@pytest.fixture(scope="module")
def model():
    with StandInModel() as server:
        yield server


async def ended(town):
    for handle in town.handles:
        await handle.stop(grace_s=5)
    assert [] == marked(town.launch.run)


@pytest_asyncio.fixture(loop_scope="module")
async def town(tmp_path, model, program):
    """An agent of its own, not started."""
    town = KiloTown(tmp_path, model.url, program)
    yield town
    await ended(town)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory, model, program):
    """One agent for all tests that leave it usable; not a mayor."""
    root = tmp_path_factory.mktemp("shared")
    town = KiloTown(root, model.url, program)
    town.launch = replace(town.launch, role="polecat")
    await town.start(system_prompt=INSTRUCTION)
    yield town
    await ended(town)


@pytest.fixture
def handle(shared):
    """The shared agent's run."""
    return shared.handles[-1]


async def store_only(town, handle, message_id, text):
    """As if everything had died between storing a message and its first answer."""
    made = message_id_for(message_id, time.time_ns() // 1_000_000, None)
    body = handle._prompt(Turn(message_id, made), text)
    await handle._api.prompt(handle.session_id, body | {"noReply": True})
    await wait_until(lambda: made in [message[0] for message in town.messages()])


def sleeping(town):
    """What the sleeping processes of the run were asked to sleep."""
    found = set()
    for pid in marked(town.launch.run):
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if command[0] == b"sleep":
            found.add(command[1].decode())
    return found


def statuses(town):
    return [event.status for event in town.events if event.status]


class TestDeath:
    async def test_an_agent_outlives_its_container(self, town, model):
        """Killed while a tool runs, its disk wiped: the same session is there, tells of
        each message what became of it, and answers with all of it known."""
        first = await town.start()
        earlier = ["I am Ada", "run: echo from-a-tool\nwrite note.txt: kept"]
        for number, text in enumerate(earlier, 1):
            closed = await town.turn(first, f"m{number}", text)
            assert TurnEnd.COMPLETED is closed.reason
        await first.deliver(Message("m3", "run: sleep 113"))
        await wait_until(lambda: "113" in sleeping(town), limit_s=30)
        await store_only(town, first, "m4", "who am I?")
        saved, known = town.save_as(town.root / "saved.db"), town.messages()
        os.kill(first.pid, signal.SIGKILL)
        report = await first.wait()
        assert set() == sleeping(town)
        assert (signal.SIGKILL, (), True) == (
            report.signal,
            report.survivors,
            report.killed > 0,
        )
        town.lose_everything(saved)

        second = await town.start(resume=first.session_id)

        assert (True, first.session_id) == (second.resumed, second.session_id)
        assert known == town.messages()
        assert [
            Stored.ANSWERED,
            Stored.ANSWERED,
            Stored.UNFINISHED,
            Stored.UNANSWERED,
            Stored.ABSENT,
        ] == [await second.find_message(f"m{number}") for number in range(1, 6)]

        asked = len(model.calls)
        closed = await town.turn(second, "m4", "who am I?", Mode.CONTINUE)

        now, told = town.messages(), (*earlier, "run: sleep 113", "who am I?")
        assert TurnEnd.COMPLETED is closed.reason
        assert [told] == [call.prompts for call in model.calls[asked:]]
        assert sorted(known) == sorted(now[:-1])
        assert digest(told[:-1]) in now[-1][2]
        assert Stored.ANSWERED is await second.find_message("m4")

        await town.turn(second, "m5", "run: pwd")

        assert (*told, "run: pwd") == model.calls[-1].prompts
        assert str(town.launch.workdir) in model.calls[-1].tool_results[0]

    async def test_a_session_follows_its_project_to_another_path(self, town, model):
        """Made anew when it is lost; restored where its folder is gone, its tools work
        in the new one."""
        first = await town.start(resume="ses_000000000000aaaaaaaaaaaaaa")
        assert not first.resumed
        await town.turn(first, "m1", "hello")
        await first.stop()
        moved = town.root / "elsewhere"
        town.launch.workdir.rename(moved)
        town.launch = replace(town.launch, workdir=moved)

        second = await town.start(resume=first.session_id)
        await town.turn(second, "m2", "run: pwd")

        assert second.resumed
        assert str(moved) in model.calls[-1].tool_results[0]


class TestStop:
    async def test_nothing_is_left_of_a_running_tool(self, town):
        """The tool's shell has a session of its own, and so has what it left there."""
        handle = await town.start()
        script = "(setsid sleep 111 >/dev/null 2>&1 &) ; sleep 112"
        await handle.deliver(Message("m1", f"run: {script}"))
        await wait_until(lambda: sleeping(town) >= {"111", "112"}, limit_s=30)

        report = await handle.stop(grace_s=5)

        assert report.requested
        assert () == report.survivors
        assert set() == sleeping(town)
        found = find_message(town.database, handle.session_id, "m1")
        assert Stored.UNFINISHED is found.stored

    async def test_offline_ends_by_itself_and_can_be_stopped(self, town, model):
        """The model goes away: its return finishes the turn, a stop interrupts it."""
        with StandInModel() as own:
            port, given = own.port, town.launch.spec.env_vars["KILO_CONFIG_CONTENT"]
            config = given.replace(model.url, own.url)
            handle = await town.start(env_vars={"KILO_CONFIG_CONTENT": config})
            await town.turn(handle, "m1", "hello")
        await handle.deliver(Message("m2", "are you there?"))
        await wait_until(lambda: Status.OFFLINE in statuses(town), limit_s=20)
        assert Status.OFFLINE is await handle.status()

        with StandInModel(port):
            await wait_until(lambda: town.closed("m2"), limit_s=40)
        await handle.deliver(Message("m3", "and now?"))
        await wait_until(lambda: Status.OFFLINE is statuses(town)[-1], limit_s=20)
        report = await handle.stop(grace_s=5)

        assert [TurnEnd.COMPLETED] == [event.reason for event in town.closed("m2")]
        assert [TurnEnd.INTERRUPTED] == [event.reason for event in town.closed("m3")]
        assert 0 == report.code


class TestTurn:
    @pytest.mark.parametrize(
        ("text", "begun"),
        [
            pytest.param("hold", lambda t, model: model.holding, id="while it answers"),
            pytest.param(
                "run: sleep 120",
                lambda town, model: "120" in sleeping(town),
                id="while a tool runs",
            ),
            pytest.param(
                "fail: 500",
                lambda town, model: Status.RETRY in statuses(town),
                id="while it tries again",
            ),
        ],
    )
    async def test_an_abort_ends_it_and_the_session_goes_on(
        self, shared, handle, model, request, text, begun
    ):
        """One close, interrupted; the next message is answered."""
        name = request.node.callspec.id
        await handle.deliver(Message(name, text))
        await wait_until(lambda: begun(shared, model), limit_s=20)

        await handle.abort()

        assert Stored.UNFINISHED is await handle.find_message(name)
        after = await shared.turn(handle, f"after {name}", "go on")
        assert TurnEnd.COMPLETED is after.reason
        assert [TurnEnd.INTERRUPTED] == [e.reason for e in shared.closed(name)]

    async def test_an_abort_right_after_delivery_loses_no_end(self, shared, handle):
        """Kilo would drop the message without a word were it not stored yet."""
        names = [f"cut{number}" for number in range(5)]

        for name in names:
            await handle.deliver(Message(name, "hold"))
            await handle.abort()

        ends = [[event.reason for event in shared.closed(name)] for name in names]
        assert [[TurnEnd.INTERRUPTED]] * 5 == ends

    async def test_a_refusal_of_the_model_closes_it_as_an_error(self, shared, handle):
        """It is no answer, and no reason to wait."""
        closed = await shared.turn(handle, "refused", "fail: 401")

        assert TurnEnd.ERROR is closed.reason

    async def test_a_model_change_holds_from_the_next_one_on(
        self, shared, handle, model
    ):
        """Same session, same process; a model that is not there is refused."""
        before = len(model.calls)
        await shared.turn(handle, "first", "hello")
        await handle.set_model("stand-in/two")
        await shared.turn(handle, "second", "hello again")
        with pytest.raises(ServiceError) as refused:
            await handle.set_model("nowhere/three")
        await handle.set_model("stand-in/one")

        assert ["one", "two"] == [call.model for call in model.calls[before:]]
        assert Reason.FIELD_INVALID is refused.value.reason

    async def test_a_system_prompt_comes_with_it(self, shared, handle, model):
        """For all but the mayor, which has it in a file of its workspace."""
        await shared.turn(handle, "system", "hello")

        assert INSTRUCTION in model.calls[-1].system

    async def test_a_tool_is_seen_to_start_and_end(self, shared, handle):
        """The evidence that a heartbeat carries."""
        before = len(shared.events)

        await shared.turn(handle, "tool", "run: true")

        kinds = [event.kind for event in shared.events[before:]]
        assert 1 == kinds.count(EventKind.TOOL_STARTED)
        assert 1 == kinds.count(EventKind.TOOL_ENDED)

    async def test_one_waits_for_the_other(self, shared, handle, model):
        """A second message during a turn is refused, not queued where an abort would
        lose it."""
        await handle.deliver(Message("long", "hold"))
        with pytest.raises(ServiceError) as refused:
            await handle.deliver(Message("next", "hello"))
        await wait_until(lambda: model.holding, limit_s=20)
        httpx.post(f"{model.url.removesuffix('/v1')}/release")
        await wait_until(lambda: shared.closed("long"), limit_s=20)

        assert Reason.RUNTIME_UNREACHABLE is refused.value.reason
        assert Stored.ABSENT is await handle.find_message("next")


class TestStart:
    async def test_a_failure_says_why_and_leaves_nothing(self, town):
        """Something that is no database where the session should be."""
        town.database.parent.mkdir(parents=True)
        town.database.write_bytes(b"not a database" * 1000)

        with pytest.raises(ServiceError) as failed:
            await town.start()

        assert Reason.START_FAILED is failed.value.reason
        assert "file is not a database" in failed.value.message
        assert [] == marked(town.launch.run)

    async def test_the_version_is_the_programs(self, town):
        """Each snapshot carries it."""
        assert "7.7.9" == await town.runtime.version(town.launch)

    async def test_a_missing_program_is_named(self, town):
        """With what to check."""
        missing = KiloRuntime(lambda: Path("/nowhere/kilo"))

        with pytest.raises(ServiceError) as refused:
            await missing.start(town.launch, town.events.append, town.outputs.append)

        assert Reason.RUNTIME_MISSING is refused.value.reason
