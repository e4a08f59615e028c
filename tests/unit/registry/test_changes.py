"""Tokens to go on from."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.chassis.errors import Reason, ServiceError
from services.registry.changes import Position, resume_position, resume_token
from services.registry.pages import page_token, sealed

revisions = st.integers(0, 2**53)
positions = st.builds(
    Position, st.from_regex("[0-9]{1,15}", fullmatch=True), revisions, revisions
)


@given(positions, st.booleans())
def test_a_token_leads_back_to_its_place(position, synced):
    """In the list and behind it."""
    if synced:
        position = Position(position.log, position.revision)

    assert position == resume_position("t", resume_token("t", position))


def test_no_token_begins_a_list():
    """That is how a watch starts."""
    assert resume_position("t", "") is None


def test_a_token_of_another_town_is_no_good_here():
    """It was one, but leads nowhere: the same answer as for one that is too old."""
    token = resume_token("other", Position("1", 5))

    with pytest.raises(ServiceError) as refused:
        resume_position("t", token)
    assert Reason.RESUME_TOKEN_EXPIRED is refused.value.reason


@pytest.mark.parametrize(
    "token",
    [
        pytest.param("x", id="too short"),
        pytest.param("!!", id="no base64"),
        pytest.param("\u00fc", id="no ASCII"),
        pytest.param(page_token("ListAgents t", "t/1/5/"), id="of a list"),
        pytest.param(resume_token("t", Position("1", 5))[:-2], id="cut"),
        pytest.param(sealed("WatchAgents", "t/1/5"), id="too few parts"),
        pytest.param(sealed("WatchAgents", "t//5/"), id="no log"),
        pytest.param(sealed("WatchAgents", "t/1/-5/"), id="below zero"),
        pytest.param(sealed("WatchAgents", "t/1/\u0665/"), id="other digits"),
        pytest.param(sealed("WatchAgents", f"t/1/{2**53 + 1}/"), id="too large"),
        pytest.param(sealed("WatchAgents", f"t/1/{'9' * 5000}/"), id="far too large"),
    ],
)
def test_what_was_never_a_token_is_refused(token):
    """With the field that is to be mended."""
    with pytest.raises(ServiceError) as refused:
        resume_position("t", token)

    assert (Reason.FIELD_INVALID, "resume_token") == (
        refused.value.reason,
        refused.value.metadata["field"],
    )
