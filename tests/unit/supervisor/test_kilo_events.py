"""Kilo's events, as they were recorded from the real one, and what they become."""

import pytest

from services.supervisor.kilo.events import Translator, status_of, turn_end_of
from services.supervisor.runtime import EventKind, Status, TurnEnd

OURS, CHILD = "ses_ours", "ses_child"


def kinds(*events):
    translator = Translator(OURS)
    translated = [translator.translate(name, data) for name, data in events]
    return [event.kind for event in translated if event]


def tool(status, call="c1"):
    part = {"type": "tool", "callID": call, "tool": "bash", "state": {"status": status}}
    return "message.part.updated", {"sessionID": OURS, "part": part}


def test_a_tool_starts_once_and_ends_once():
    """Kilo repeats the running state with each piece of output."""
    states = ("pending", "running", "running", "completed", "completed")

    found = [k for k in kinds(*map(tool, states)) if k is not EventKind.OTHER]

    assert [EventKind.TOOL_STARTED, EventKind.TOOL_ENDED] == found


def test_a_tool_that_fails_has_ended():
    """An error is an end."""
    assert EventKind.TOOL_ENDED is kinds(tool("running"), tool("error"))[-1]


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        pytest.param("server.heartbeat", {}, [EventKind.ALIVE], id="heartbeat"),
        pytest.param("sync", {"sessionID": OURS}, [], id="the doubled copy"),
        pytest.param("plugin.added", {}, [EventKind.OTHER], id="of no session"),
        pytest.param(
            "session.turn.open", {"sessionID": OURS}, [EventKind.TURN_OPENED], id="turn"
        ),
        pytest.param(
            "session.turn.open", {"sessionID": CHILD}, [], id="a child's turn"
        ),
        pytest.param(
            "message.updated",
            {"info": {"sessionID": CHILD}},
            [EventKind.ALIVE],
            id="a child at work",
        ),
        pytest.param(
            "message.part.updated",
            {"part": {"sessionID": CHILD, "type": "tool", "state": "odd"}},
            [],
            id="a child's tool",
        ),
        pytest.param(
            "message.part.updated",
            {"sessionID": OURS, "part": {"type": "tool", "state": None}},
            [EventKind.OTHER],
            id="an odd shape",
        ),
    ],
)
def test_an_event_becomes_what_the_supervisor_acts_on(name, data, expected):
    """Only our session counts; a child session is a sign of life at most."""
    assert expected == kinds((name, data))


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        pytest.param({"type": "idle"}, Status.IDLE, id="idle"),
        pytest.param({"type": "retry", "attempt": 2}, Status.RETRY, id="retry"),
        pytest.param({"type": "offline"}, Status.OFFLINE, id="offline"),
        pytest.param({"type": "pondering"}, Status.BUSY, id="unknown"),
        pytest.param(None, Status.BUSY, id="none"),
    ],
)
def test_a_status_that_is_not_known_is_not_idle(status, expected):
    """A newer Kilo's word must not make a working agent look finished."""
    assert expected is status_of(status)


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        pytest.param("completed", TurnEnd.COMPLETED, id="completed"),
        pytest.param("superseded", TurnEnd.COMPLETED, id="superseded"),
        pytest.param("error", TurnEnd.ERROR, id="error"),
        pytest.param("interrupted", TurnEnd.INTERRUPTED, id="interrupted"),
    ],
)
def test_a_turn_closes_for_a_reason(reason, expected):
    """The four words of Kilo's turn.close."""
    assert expected is turn_end_of(reason)
