"""What may be said to an agent, and in which order it stands."""

from __future__ import annotations

import pytest

from services.chassis.errors import Reason, ServiceError
from services.registry.inbox import (
    TEXT_BYTES_MAX,
    check_content,
    content_digest,
    position,
)


@pytest.mark.parametrize("text", ["x", "\u00fc" * (TEXT_BYTES_MAX // 2)])
def test_a_content_takes_up_to_the_limit(text):
    """In bytes, not characters."""
    check_content(text, "a/b")


@pytest.mark.parametrize(
    ("text", "model", "reason"),
    [
        ("", "", Reason.FIELD_REQUIRED),
        ("x" * (TEXT_BYTES_MAX + 1), "", Reason.MESSAGE_TOO_LARGE),
        ("x", "m" * 1025, Reason.FIELD_INVALID),
        ("x", "a\0b", Reason.FIELD_INVALID),
    ],
)
def test_a_content_beyond_it_is_refused(text, model, reason):
    """With the reason."""
    with pytest.raises(ServiceError) as refused:
        check_content(text, model)

    assert reason is refused.value.reason


def test_a_digest_tells_contents_apart():
    """Text and model both count, and where one ends."""
    digests = {
        content_digest("ab", "c"),
        content_digest("b", "ca"),
        content_digest("abc", ""),
        content_digest("", "abc"),
    }

    assert 4 == len(digests)


def test_positions_sort_by_acceptance():
    """Also beyond nine."""
    assert position(9, "z") < position(10, "a") < position(10**15, "a")
