"""Page tokens and page sizes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.chassis.errors import ServiceError
from services.registry.pages import page_size, page_start, page_token

texts = st.text(st.characters(codec="utf-8"))


@given(texts.filter(bool), texts)
def test_a_token_leads_back_to_its_place(after, scope):
    """Whatever the place and the list are called."""
    assert after == page_start(scope, page_token(scope, after))


def test_the_end_has_no_token_and_none_is_the_beginning():
    """Empty stays empty in both directions."""
    assert ("", "") == (page_token("s", ""), page_start("s", ""))


@pytest.mark.parametrize(
    "token",
    [
        "x",
        "!!",
        "AAAA",
        "A" * 400,
        "\u00fc",
        page_token("other", "a"),
        page_token("s", "a")[:-2],
        page_token("s", "a") + "AA",
    ],
)
def test_other_tokens_are_refused(token):
    """Made for another list, cut, or made up."""
    with pytest.raises(ServiceError) as refused:
        page_start("s", token)

    assert "page_token" == refused.value.metadata["field"]


@pytest.mark.parametrize(
    ("given", "used"), [(0, 50), (1, 1), (500, 500), (501, 500), (2**31 - 1, 500)]
)
def test_sizes_are_held_to_what_is_served(given, used):
    """0 is the default; more than the most is the most."""
    assert used == page_size(given)
