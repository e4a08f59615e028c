"""Any program as an agent: what it is told, what it says, how it ends."""

import os
import sys
import uuid
from pathlib import Path

import pytest

from services.chassis.errors import Reason, ServiceError
from services.supervisor.exec_runtime import ExecPolicy, ExecRuntime
from services.supervisor.meter import OUTPUT_BYTES_PER_S
from services.supervisor.runtime import (
    EventKind,
    Launch,
    Message,
    Mode,
    RunSpec,
    Status,
    Stored,
    TurnEnd,
)
from tests.support.children import AGENT, marked, python
from tests.support.waiting import wait_until

pytestmark = pytest.mark.integration


class Seen:
    """What a run's two sinks got."""

    def __init__(self):
        self.events, self.outputs = [], []

    @property
    def closed(self):
        return [e for e in self.events if e.kind is EventKind.TURN_CLOSED]

    @property
    def text(self):
        return b"".join(output.data for output in self.outputs).decode()


@pytest.fixture
def launch(tmp_path):
    for name in ("home", "work", "tmp"):
        (tmp_path / name).mkdir()

    def make(**spec):
        fields = {"command": python(AGENT), "database": "state/agent.db"} | spec
        return Launch(
            town="t",
            rig="r",
            agent="toast",
            run=f"test-{uuid.uuid4()}",
            role="polecat",
            spec=RunSpec("exec", **fields),
            home=tmp_path / "home",
            workdir=tmp_path / "work",
            tmpdir=tmp_path / "tmp",
        )

    return make


@pytest.fixture
def runtime():
    return ExecRuntime(ExecPolicy.parse("any"))


@pytest.fixture
async def begin(launch, runtime):
    """Starts the agent; gives its handle and what is seen of it."""
    handles = []

    async def start(**spec):
        seen = Seen()
        given = launch(**spec)
        handle = await runtime.start(given, seen.events.append, seen.outputs.append)
        handles.append((handle, given.run))
        return handle, seen

    yield start
    for handle, run in handles:
        await handle.stop(grace_s=0)
        assert [] == marked(run)


async def turn(handle, seen, message_id, text):
    await handle.deliver(Message(message_id, text))
    await wait_until(lambda: message_id in [e.message_id for e in seen.closed])


async def test_a_message_is_one_turn(begin):
    """Busy from the message to its message.done, idle after it."""
    handle, seen = await begin()

    await handle.deliver(Message("m1", "hello"))
    busy = await handle.status()
    await wait_until(lambda: seen.closed)

    assert (Status.BUSY, Status.IDLE) == (busy, await handle.status())
    assert ("m1", TurnEnd.COMPLETED) == (
        seen.closed[0].message_id,
        seen.closed[0].reason,
    )
    assert "hello\nheard hello\n" == seen.text


async def test_the_environment_is_the_one_promised(begin, tmp_path, monkeypatch):
    """Nothing of the supervisor's own, the agent's folders, and what it asked for."""
    monkeypatch.setenv("GASTOWN_CONTAINER_TOKEN", "secret")
    monkeypatch.setenv("LANG", "C.UTF-8")
    handle, seen = await begin(env_vars={"OWN": "1", "HOME": "/elsewhere"})

    await turn(handle, seen, "m1", "environment")

    told = next(e.data["all"] for e in seen.events if e.name == "environment")
    home = tmp_path / "home"
    ours = {
        "HOME": str(home),
        "XDG_DATA_HOME": str(home / ".local/share"),
        "TMPDIR": str(tmp_path / "tmp"),
        "TOWNKEEPER_DATABASE": str(home / "state/agent.db"),
        "TOWNKEEPER_AGENT": "toast",
        "OWN": "1",
    }
    assert ours.items() <= told.items()
    extra = set(told) - set(ours) - {"LC_CTYPE"}  # python sets that one itself
    assert {"PATH", "LANG", "TOWNKEEPER_RUN"} == extra


async def test_what_one_is_given_no_other_sees(begin):
    """Nor does anything of it stay with the supervisor."""
    before, here = dict(os.environ), Path.cwd()
    await begin(env_vars={"ORGANIZATION": "first", "KEY": "secret"})
    handle, seen = await begin(env_vars={"OWN": "1"})

    await turn(handle, seen, "m1", "environment")

    told = next(e.data["all"] for e in seen.events if e.name == "environment")
    assert ("1", set()) == (told["OWN"], {"ORGANIZATION", "KEY"} & set(told))
    assert (before, here) == (dict(os.environ), Path.cwd())


async def test_an_empty_prompt_sends_nothing(begin):
    """Its turn is over at once, and the program has heard nothing."""
    handle, seen = await begin()

    await handle.deliver(Message("m0", ""))
    await turn(handle, seen, "m1", "first")

    assert ["m0", "m1"] == [event.message_id for event in seen.closed]
    assert "hello\nheard first\n" == seen.text


async def test_a_flood_is_dropped_and_counted_but_no_turn_end(begin):
    """5 MB at once: a second's allowance passes, the rest is a number."""
    handle, seen = await begin()

    await turn(handle, seen, "m1", "flood")
    await handle.stop(grace_s=5)

    passed = sum(len(output.data) for output in seen.outputs)
    dropped = sum(output.dropped_bytes for output in seen.outputs)
    assert len("hello\nheard flood\n") + 5_000_000 == passed + dropped
    assert passed < 3 * OUTPUT_BYTES_PER_S
    assert ["m1"] == [event.message_id for event in seen.closed]


@pytest.mark.parametrize(
    ("text", "code", "completed"),
    [
        pytest.param("leave", 0, True, id="exit 0"),
        pytest.param("crash", 3, False, id="crash"),
    ],
)
async def test_an_end_is_a_completion_or_a_crash(begin, text, code, completed):
    """Exit 0 of its own will is a completion, all else is not."""
    handle, _ = await begin()

    await handle.deliver(Message("m1", text))
    report = await handle.wait()

    assert (code, completed) == (report.code, report.completed)


async def test_after_its_end_nothing_can_be_asked(begin):
    """Every call says that the run has ended."""
    handle, _ = await begin()
    await handle.stop()

    for call in (
        handle.deliver(Message("m1", "hello")),
        handle.find_message("m1"),
        handle.status(),
        handle.abort(),
        handle.set_model("x"),
    ):
        with pytest.raises(ServiceError) as refused:
            await call
        assert Reason.RUN_NOT_RUNNING is refused.value.reason


async def test_a_stop_in_mid_turn_is_requested(begin):
    """Not a crash: nobody must restart it."""
    handle, seen = await begin()
    await handle.deliver(Message("m1", "hang"))
    await wait_until(lambda: "heard hang" in seen.text)

    report = await handle.stop(grace_s=5)

    assert report.requested
    assert not report.completed


async def test_what_was_heard_is_there_again(begin):
    """The database lies where it was told, and a second run finds it."""
    first, seen = await begin()
    await turn(first, seen, "m1", "hello")
    await first.stop(grace_s=1)

    second, _ = await begin()

    assert (False, True) == (first.resumed, second.resumed)
    assert Stored.ABSENT is await second.find_message("m1")


async def test_both_modes_hand_the_message_over(begin):
    """Delivery is at least once: the program knows by the id what is new."""
    handle, seen = await begin()
    await turn(handle, seen, "m1", "hello")

    await handle.deliver(Message("m1", "hello"), Mode.CONTINUE)
    await wait_until(lambda: len(seen.closed) == 2)

    assert seen.text.count("heard hello") == 2


async def test_its_temporary_folder_is_empty_at_the_start(begin, tmp_path):
    """What an earlier run dropped is gone; what a link points at is not."""
    kept = tmp_path / "kept"
    kept.write_text("keep me")
    (tmp_path / "tmp" / "old").mkdir()
    (tmp_path / "tmp" / "old" / "file").write_text("x")
    (tmp_path / "tmp" / "link").symlink_to(kept)

    await begin()

    assert [] == list((tmp_path / "tmp").iterdir())
    assert kept.exists()


@pytest.mark.parametrize(
    ("policy", "command", "allowed"),
    [
        pytest.param("any", ("sh",), "sh", id="any"),
        pytest.param("/bin/sh", ("/bin/sh", "-c"), "/bin/sh", id="listed path"),
        pytest.param("cat,sh", ("sh",), None, id="listed name, found on our PATH"),
        pytest.param("", ("sh",), Reason.EXEC_DISABLED, id="nothing allowed"),
        pytest.param("cat", ("sh",), Reason.EXEC_DISABLED, id="not listed"),
        pytest.param("sh", ("./sh",), Reason.EXEC_DISABLED, id="its own sh"),
        pytest.param("sh", ("/tmp/sh",), Reason.EXEC_DISABLED, id="another sh"),
        pytest.param("any", (), Reason.COMMAND_INVALID, id="no command"),
        pytest.param("any", ("",), Reason.COMMAND_INVALID, id="empty program"),
    ],
)
def test_only_allowed_programs_run(policy, command, allowed):
    """TOWNKEEPER_EXEC decides, and a request cannot bring its own program by name."""
    rules = ExecPolicy.parse(policy)

    if isinstance(allowed, Reason):
        with pytest.raises(ServiceError) as refused:
            rules.program(command)
        assert allowed is refused.value.reason
    else:
        found = rules.program(command)
        assert found == allowed or found.endswith("/sh")


async def test_a_refused_program_leaves_nothing_running(launch):
    """Refused before anything is made."""
    runtime = ExecRuntime(ExecPolicy.parse(""))
    given = launch(command=(sys.executable,))

    with pytest.raises(ServiceError) as refused:
        await runtime.start(given, lambda event: None, lambda output: None)

    assert Reason.EXEC_DISABLED is refused.value.reason
    assert [] == marked(given.run)


@pytest.mark.parametrize(
    "database", ["../out.db", "/etc/out.db", "link/agent.db", "file/agent.db", "a\0b"]
)
def test_a_database_outside_its_home_is_refused(launch, runtime, tmp_path, database):
    """Absolute, upwards, over a link, below a file: none of them."""
    (tmp_path / "home" / "link").symlink_to(tmp_path)
    (tmp_path / "home" / "file").write_text("x")

    with pytest.raises(ServiceError) as refused:
        runtime.database_path(launch(database=database))

    assert Reason.FIELD_INVALID is refused.value.reason


def test_a_linked_database_is_refused(launch, runtime, tmp_path):
    """Even when it points at a file of its own home."""
    (tmp_path / "home" / "real.db").write_text("x")
    (tmp_path / "home" / "agent.db").symlink_to("real.db")

    with pytest.raises(ServiceError):
        runtime.database_path(launch(database="agent.db"))


async def test_a_text_of_many_lines_arrives_whole(begin):
    """Line ends are escaped: the program reads one message from one line."""
    handle, seen = await begin()

    await turn(handle, seen, "m1", 'two\nlines, "quotes", \u2028 and ü')

    assert 'heard two\nlines, "quotes", \u2028 and ü' in seen.text
