"""The campaign of `message_campaign`, in short, and defects that it must find; `make
messages` runs it whole."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.faults.campaign import asked
from tests.faults.message_campaign import play
from tests.support.changed_up import changed_plane
from tests.support.diary import Entry
from tests.support.message_faults import planted
from tests.support.message_traffic import DELIVERED, LIMIT_S, Heard, Traffic
from tests.support.poster import text_of
from tests.support.town import Town

pytestmark = [pytest.mark.campaign, pytest.mark.faults, pytest.mark.timeout(3600)]

MESSAGES_A_ROUND = 70
FEW = 60


def test_no_accepted_message_is_lost_or_processed_twice() -> None:
    """Whoever dies of registry, gateway and Valkeys, alone or two at once."""
    rounds, seed = asked(5)
    played = play(rounds * MESSAGES_A_ROUND, seed, print)

    assert [] == [complaint for one in played for complaint in one.complaints]
    accepted = sum(one.over_http + one.by_grpc for one in played)
    assert rounds * MESSAGES_A_ROUND == accepted
    assert len({victim for one in played for victim in one.killed}) > 1


def test_a_message_that_a_kill_keeps_from_being_stored_is_missed() -> None:
    """Else nobody would know that the kills hit anything."""
    change = planted("a message is accepted that was not stored")["registry"]

    played = play(4 * MESSAGES_A_ROUND, 1, print, change.arguments)

    complaints = [complaint for one in played for complaint in one.complaints]
    assert any("accepted and not processed" in one for one in complaints)


@pytest.mark.parametrize(
    ("fault", "found"),
    [
        ("an accepted message is forgotten", "accepted and not processed"),
        ("a message is settled that was never given", "accepted and not processed"),
        ("a message is given under another id", "processed and never accepted"),
        ("the newest message is given first", "senders whose order is broken"),
    ],
)
def test_a_planted_defect_is_found(tmp_path: Path, fault: str, found: str) -> None:
    """Else a campaign without complaints would prove nothing."""
    with (
        changed_plane(tmp_path / "d", "a", **planted(fault)) as plane,
        Traffic([Town(plane)], tmp_path, FEW, pause_s=0.0) as traffic,
    ):
        traffic.wait_over(LIMIT_S)
        _, complaints = traffic.end()

    assert any(found in complaint for complaint in complaints)


def entries(*keys: str) -> tuple[Entry, ...]:
    """What a program has stored that was sent these."""
    return tuple(Entry(key, text_of(key), f"heard: {text_of(key)}", 1) for key in keys)


SOUND = Heard(
    sent=[["http-0", "http-2"], ["grpc-1", "grpc-3"]],
    listed=dict.fromkeys(("http-0", "grpc-1", "http-2", "grpc-3"), DELIVERED),
    entries=entries("grpc-1", "http-0", "grpc-3", "http-2"),
    noted=[(7, "grpc-1"), (7, "http-0"), (7, "grpc-3"), (7, "http-2")],
)


def test_what_is_sound_is_not_complained_of() -> None:
    """Senders may overtake each other; none overtakes itself."""
    assert [] == SOUND.complaints()


@pytest.mark.parametrize(
    ("heard", "complaint"),
    [
        pytest.param(
            replace(SOUND, noted=[*SOUND.noted, (7, "grpc-1")]),
            "1 processed more than once, such as grpc-1",
            id="twice",
        ),
        pytest.param(
            replace(SOUND, noted=SOUND.noted[1:]),
            "1 processed and not noted, such as grpc-1",
            id="stored without being processed",
        ),
        pytest.param(
            replace(SOUND, noted=[*SOUND.noted[:3], (8, "http-2")]),
            "1 more starts of the program",
            id="started anew",
        ),
        pytest.param(
            replace(SOUND, entries=entries("http-2", "grpc-1", "http-0", "grpc-3")),
            "1 senders whose order is broken, such as http",
            id="out of order",
        ),
        pytest.param(
            replace(SOUND, entries=SOUND.entries[:3]),
            "1 accepted and not processed, such as http-2",
            id="lost from the saved session",
        ),
        pytest.param(
            replace(SOUND, listed={}), "4 not settled, such as http-0", id="waiting"
        ),
        pytest.param(
            replace(SOUND, sent=SOUND.sent[:1]),
            "2 processed and never accepted, such as grpc-1",
            id="made up",
        ),
    ],
)
def test_what_is_wrong_is_told(heard: Heard, complaint: str) -> None:
    """Each of the promises on its own."""
    assert any(one.startswith(complaint) for one in heard.complaints())
