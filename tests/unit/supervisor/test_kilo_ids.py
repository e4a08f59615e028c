"""Kilo's ids and what its messages say, as pure as the rules themselves."""

import pytest

from services.supervisor.kilo.ids import (
    judge,
    message_id_for,
    part_id_for,
    suffix_of,
    time_of,
)
from services.supervisor.runtime import Stored

NOW_MS = 1_795_442_259_578  # in that one Kilo made an id with 208b2b67a001
HALF = 1 << 35


def test_an_id_has_kilos_layout():
    """Twelve hex digits of time with a counter of 0, then 14 letters of our own."""
    made = message_id_for("m1", NOW_MS, None)

    assert "msg_208b2b67a000" == made[:16]
    assert suffix_of("m1") == made[16:]
    assert 14 == len(made[16:])


def test_a_suffix_depends_on_the_inbox_id_alone():
    """The same message has the same ending for ever, another one another."""
    assert "EQMkRatrzCLWlU" == suffix_of("m1")
    assert suffix_of("m1") != suffix_of("m2")


def test_a_part_is_stored_under_the_id_of_its_message():
    """Sending a message again must hit the same row."""
    assert "prt_208b2b5e0000abc" == part_id_for("msg_208b2b5e0000abc")


@pytest.mark.parametrize(
    ("last_ms", "expected_ms"),
    [
        pytest.param(NOW_MS - 5, NOW_MS, id="clock ahead of the session"),
        pytest.param(NOW_MS, NOW_MS + 1, id="same millisecond"),
        pytest.param(NOW_MS + 90_000, NOW_MS + 90_001, id="clock behind the session"),
        pytest.param(NOW_MS + HALF + 1, NOW_MS, id="before the width wrapped"),
    ],
)
def test_an_id_sorts_after_the_last_one(last_ms, expected_ms):
    """Whatever the clock, the new message comes last."""
    last = message_id_for("other", last_ms, None)

    made = message_id_for("m1", NOW_MS, last)

    assert expected_ms % (1 << 36) == time_of(made)


def test_an_id_of_another_layout_is_ignored():
    """A session may hold ids that another client chose."""
    assert message_id_for("m1", NOW_MS, None) == message_id_for("m1", NOW_MS, "msg_x")


ABORTED = {"name": "MessageAbortedError"}
REFUSED = {"name": "APIError"}


def answer(completed=True, **info):
    return {"time": {"created": 1, **({"completed": 2} if completed else {})}, **info}


@pytest.mark.parametrize(
    ("answers", "stored", "failed"),
    [
        pytest.param([], Stored.UNANSWERED, False, id="no answer"),
        pytest.param([answer(finish="stop")], Stored.ANSWERED, False, id="whole"),
        pytest.param([answer(finish="length")], Stored.ANSWERED, False, id="too long"),
        pytest.param(
            [answer(finish="tool-calls"), answer(finish="stop")],
            Stored.ANSWERED,
            False,
            id="after a tool",
        ),
        pytest.param([answer(False)], Stored.UNFINISHED, False, id="cut while it ran"),
        pytest.param(
            [answer(finish="tool-calls")],
            Stored.UNFINISHED,
            False,
            id="cut between two steps",
        ),
        pytest.param(
            [answer(finish="tool-calls"), answer(False)],
            Stored.UNFINISHED,
            False,
            id="cut in a second step",
        ),
        pytest.param([answer(error=ABORTED)], Stored.UNFINISHED, False, id="aborted"),
        pytest.param([answer()], Stored.UNFINISHED, False, id="ended without a finish"),
        pytest.param([answer(error=REFUSED)], Stored.ANSWERED, True, id="failed"),
    ],
)
def test_answers_tell_how_far_a_turn_came(answers, stored, failed):
    """A message is answered only by a last message that is complete."""
    assert (stored, failed) == judge(answers)
