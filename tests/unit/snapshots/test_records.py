"""Records as JSON: for ever readable, and where blobs lie."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.snapshots import records
from tests.support.snapshot_values import NAME, content, opaque, snapshot

# A record as version 1 wrote it: must be read by every later version (promise P10).
GOLDEN = (
    '{"version":1,"town":"t","agent":"a","generation":2,"format":"pages",'
    '"size_bytes":8192,"page_size_bytes":4096,"page_count":2,"segments":'
    '[["' + "ab" * 32 + '","base",700,2],["' + "cd" * 32 + '","delta",300,1]],'
    '"fingerprint":"000102030405060708090a0b0c0d0e0f","upload_id":"u","runtime":"kilo",'
    '"runtime_version":"7.7.9","session_id":"ses_1","labels":{"k":"v"},"epoch":3,'
    '"instance":"towns/t/instances/i","create_time_us":1767225600000001}'
)


# The same after its chain was compacted: version 2.
GOLDEN_2 = GOLDEN[:-1].replace('"version":1', '"version":2') + ',"revision":4}'

# And held, or deleted: version 3.
GOLDEN_3 = GOLDEN_2[:-1].replace('"version":2', '"version":3') + ',"hold":true}'
GOLDEN_3_DELETED = (
    GOLDEN_2[:-1].replace('"version":2', '"version":3')
    + ',"delete_time_us":1767225600000002,"purge_time_us":1767830400000002}'
)


class TestJson:
    @pytest.mark.parametrize("held", [content(), content(deltas=16), opaque()])
    def test_reads_back_equal(self, held: object) -> None:
        """Nothing of a record is lost on its way to disk."""
        given = snapshot(7, content=held)

        assert given == records.from_json(records.to_json(given))

    def test_reads_the_first_version(self) -> None:
        """What version 1 wrote is read for ever, and written the same."""
        found = records.from_json(GOLDEN)

        assert (2, "ses_1", 3) == (
            found.generation,
            found.origin.session_id,
            found.epoch,
        )
        assert datetime(2026, 1, 1, 0, 0, 0, 1, UTC) == found.create_time
        assert GOLDEN == records.to_json(found)

    def test_reads_the_second_version(self) -> None:
        """A record that was changed says how often, and is of another version: a
        program that knows nothing of changes must not take it for what it was."""
        found = records.from_json(GOLDEN_2)

        assert 4 == found.revision
        assert GOLDEN_2 == records.to_json(found)

    def test_reads_the_third_version(self) -> None:
        """A program that knows nothing of holds must not read a record that is held:
        it would drop it."""
        found = records.from_json(GOLDEN_3)

        assert found.hold
        assert GOLDEN_3 == records.to_json(found)
        assert GOLDEN_2 == records.to_json(replace(found, hold=False))

    def test_reads_a_deletion(self) -> None:
        """Nor one that is deleted: it would list it."""
        found = records.from_json(GOLDEN_3_DELETED)

        assert found.deletion is not None
        week = timedelta(days=7)
        assert found.deletion.time + week == found.deletion.purge_time
        assert GOLDEN_3_DELETED == records.to_json(found)
        assert GOLDEN_2 == records.to_json(replace(found, deletion=None))

    @pytest.mark.parametrize(
        "text",
        [
            pytest.param("", id="empty"),
            pytest.param("[]", id="a list"),
            pytest.param("{}", id="no version"),
            pytest.param(GOLDEN[:-30], id="cut"),
            pytest.param(GOLDEN.replace('"version":1', '"version":9'), id="newer"),
            pytest.param(GOLDEN.replace("abab", "abxy"), id="no digest"),
            pytest.param(GOLDEN.replace('"pages"', '"folios"'), id="no format"),
        ],
    )
    def test_refuses_what_it_cannot_read(self, text: str) -> None:
        """A record that is damaged, or from the future, is never half read."""
        with pytest.raises(ValueError):  # noqa: PT011  whatever the text says
            records.from_json(text)

    def test_fits_the_budget(self) -> None:
        """A hundred records stay far below the 1 MiB that an agent may take."""
        longest = snapshot(10**9, content=content(deltas=16))

        assert 100 * len(records.to_json(longest)) < 300_000

    @given(st.datetimes(timezones=st.just(UTC)))
    def test_times_are_exact(self, moment: datetime) -> None:
        """A time is the same microsecond after a round trip."""
        assert moment == records.from_microseconds(records.microseconds(moment))


class TestKeys:
    @given(st.sets(st.integers(1, 2**63 - 1), min_size=2))
    def test_record_names_sort_as_numbers_do(self, generations: set[int]) -> None:
        """Listing a folder gives generations in order."""
        keys = [records.record_key(NAME, number) for number in sorted(generations)]

        assert keys == sorted(keys)
        assert sorted(generations) == [
            records.generation_of(key.rpartition("/")[2]) for key in keys
        ]

    @pytest.mark.parametrize("name", ["", ".json", "x.json", "12", "12.json.new"])
    def test_other_files_are_no_records(self, name: str) -> None:
        """What an operator left in the folder is passed over."""
        assert records.generation_of(name) is None

    def test_segments_of_a_town_are_spread(self) -> None:
        """No folder holds all of a town's segments."""
        assert "towns/t/segments/ab/ab" + "cd" * 31 == records.segment_key(
            "t", bytes.fromhex("ab" + "cd" * 31)
        )


def test_json_is_plain() -> None:
    """Anybody can read a record with any tool."""
    assert 7 == json.loads(records.to_json(snapshot(7)))["generation"]
