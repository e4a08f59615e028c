"""Tags and ranges, as RFC 9110 has them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.conditions import ByteRange, Conditions, etag, parse_range
from services.gateway.problems import Problem


class TestExpected:
    @pytest.mark.parametrize(
        ("headers", "expected"),
        [
            ({}, None),
            ({"if-match": '"3"'}, 3),
            ({"if-match": '"3", W/"4"'}, 3),
            ({"if-match": '"3", "4"'}, None),
            ({"if-match": "*"}, None),
            ({"if-match": '"elsewhere"'}, None),
            ({"if-none-match": "*"}, 0),
            ({"if-none-match": '"3"'}, None),
            ({"if-match": '"3"', "if-none-match": '"4"'}, None),
        ],
    )
    def test_says_the_head_where_the_headers_alone_tell(self, headers, expected):
        """Else somebody has to look first."""
        assert expected == Conditions.of(headers).expected

    @pytest.mark.parametrize("headers", [{"if-match": "*"}, {"if-none-match": '"1"'}])
    def test_any_header_is_a_condition(self, headers):
        """Also one that leaves the head open."""
        assert Conditions.of(headers)
        assert not Conditions.of({})


class TestCheckWrite:
    @pytest.mark.parametrize(
        ("headers", "generation", "holds"),
        [
            ({"if-match": "*"}, 1, True),
            ({"if-match": "*"}, 0, False),
            ({"if-match": '"1"'}, 1, True),
            ({"if-match": 'W/"1"'}, 1, False),
            ({"if-match": '"01"'}, 1, False),
            ({"if-match": '"0"'}, 0, False),
            ({"if-none-match": "*"}, 0, True),
            ({"if-none-match": "*"}, 1, False),
            ({"if-none-match": 'W/"1"'}, 1, False),
            ({"if-none-match": '"2"'}, 1, True),
            ({"if-match": '"1"', "if-none-match": '"1"'}, 1, False),
        ],
    )
    def test_both_headers_must_hold(self, headers, generation, holds):
        """Strongly compared for `If-Match`, weakly for `If-None-Match`."""
        refused = None
        try:
            Conditions.of(headers).check_write(generation)
        except Problem as problem:
            refused = problem.status

        assert (None if holds else 412) == refused

    @pytest.mark.parametrize("text", ["", "1", '"1', "'1'", '"1" "2"', '"1",,', "**"])
    def test_what_is_no_tag_is_malformed(self, text):
        """400, not a condition that silently fails or holds."""
        with pytest.raises(Problem) as refused:
            Conditions.of({"if-match": text})

        assert 400 == refused.value.status

    def test_a_tag_reads_back(self):
        """What we send is what we understand."""
        assert 7 == Conditions.of({"if-match": etag(7)}).expected


class TestRange:
    @given(st.binary(min_size=1, max_size=50), st.data())
    def test_a_closed_range_is_a_slice(self, content, data):
        """First and last byte, both included, as far as there are any."""
        first = data.draw(st.integers(0, len(content) - 1))
        last = data.draw(st.integers(first, 60))

        part = parse_range(f"bytes={first}-{last}", len(content))

        assert part is not None
        assert content[first : last + 1] == content[part.offset :][: part.size_bytes]

    @given(st.binary(min_size=1, max_size=50), st.integers(1, 60))
    def test_a_suffix_is_the_end(self, content, size):
        """As much of it as there is."""
        part = parse_range(f"bytes=-{size}", len(content))

        assert part is not None
        assert content[-size:] == content[part.offset :][: part.size_bytes]

    @pytest.mark.parametrize(
        "header", [None, "", "bytes", "bytes=", "bytes=-", "bytes=a-b", "bytes=1-2,4-5"]
    )
    def test_all_else_is_no_range(self, header):
        """And answered with the whole."""
        assert parse_range(header, 10) is None

    @pytest.mark.parametrize(
        ("header", "size"), [("bytes=0-", 0), ("bytes=-5", 0), ("bytes=9-99", 9)]
    )
    def test_beyond_the_end_there_is_no_part(self, header, size):
        """416, telling the size."""
        with pytest.raises(Problem) as refused:
            parse_range(header, size)

        assert 416 == refused.value.status
        assert {"content-range": f"bytes */{size}"} == refused.value.headers

    def test_says_where_it_lies(self):
        """First, last, total."""
        assert "bytes 2-4/10" == ByteRange(2, 3, 10).content_range
