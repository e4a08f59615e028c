"""The fingerprint: what it sees, and that it can be carried forward."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.segments.fingerprint import (
    ZERO,
    Fingerprint,
    hash_page,
    hash_pages,
)
from tests.support import segments

_HASH = st.binary(min_size=16, max_size=16)


def test_pages_hash_alone_as_together() -> None:
    """The hash of a page does not depend on how many are hashed at once."""
    pages = segments.image(5)

    together = hash_pages(b"".join(pages), 512)

    assert b"".join(map(hash_page, pages)) == together


def test_two_pages_swapped_are_seen() -> None:
    """The same pages in another order are another database."""
    one, two, three = segments.image(3)

    assert segments.fingerprint([one, two, three]) != segments.fingerprint(
        [two, one, three]
    )


def test_a_page_of_zeros_counts() -> None:
    """A database grown by an empty page is another database."""
    pages = segments.image(3)

    assert segments.fingerprint(pages) != segments.fingerprint([*pages, bytes(512)])


@given(st.lists(_HASH, min_size=2, max_size=40), _HASH, st.data())
def test_replacing_one_page_is_subtract_and_add(
    hashes: list[bytes], new: bytes, data: st.DataObject
) -> None:
    """Carried forward page by page, it equals the one computed afresh."""
    number = data.draw(st.integers(1, len(hashes)))
    numbers = range(1, len(hashes) + 1)
    before = Fingerprint.of(numbers, b"".join(hashes))

    after = (
        before
        - Fingerprint.of([number], hashes[number - 1])
        + Fingerprint.of([number], new)
    )

    hashes[number - 1] = new
    assert Fingerprint.of(numbers, b"".join(hashes)) == after


@given(st.lists(_HASH, max_size=20))
def test_a_range_counts_as_the_numbers_in_it(hashes: list[bytes]) -> None:
    """The fast way for consecutive pages is only faster."""
    numbers = range(7, 7 + len(hashes))
    raw = b"".join(hashes)

    assert Fingerprint.of(list(numbers), raw) == Fingerprint.of(numbers, raw)


def test_it_reads_back_from_its_bytes() -> None:
    """The 16 bytes that travel are the whole fingerprint."""
    known = segments.fingerprint(segments.image(3))

    assert known == Fingerprint.from_bytes(bytes(known))
    assert bytes(known).hex() == str(known)
    assert bytes(16) == bytes(ZERO)


def test_other_bytes_are_no_fingerprint() -> None:
    """A cut one is refused, not padded."""
    with pytest.raises(ValueError, match="give 16"):
        Fingerprint.from_bytes(b"short")
