"""JSON taken apart: word for word, and with every complaint at once."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.json_body import ISSUES_MAX, Fields, parse, split_list
from services.gateway.problems import Problem

FLOATS = st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | FLOATS | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


def issues(fields: Fields) -> dict[tuple[str | int, ...], str]:
    return {issue.path: issue.message for issue in fields.issues}


class TestSplitList:
    @given(st.lists(VALUES, max_size=6), st.sampled_from([None, 0, 2]))
    def test_gives_each_entry_with_its_text(self, values, indent):
        """Whatever the entries are and however they are laid out."""
        text = json.dumps(values, indent=indent)

        found = split_list(text)

        assert values == [value for value, _ in found]
        assert values == [json.loads(part) for _, part in found]
        assert all(part in text for _, part in found)

    @pytest.mark.parametrize("text", ["[]", " [ ] ", "\n[\t]\r\n"])
    def test_an_empty_list_has_none(self, text):
        """With any space."""
        assert [] == split_list(text)

    @pytest.mark.parametrize(
        "text",
        ["", "[", "]", "[,]", "[1,]", "[1 2]", "[1]]", "[1],", "[1", "{}", "1", "nul"],
    )
    def test_all_else_is_no_list(self, text):
        """400 each."""
        with pytest.raises(Problem) as refused:
            split_list(text)

        assert 400 == refused.value.status

    @given(st.text(alphabet='[]{},:"1a \\u', max_size=30))
    def test_agrees_with_the_decoder(self, text):
        """A list to one is a list to the other."""
        try:
            expected = json.loads(text)
        except ValueError:
            expected = None

        try:
            found = [value for value, _ in split_list(text)]
        except Problem:
            found = None

        assert (expected if isinstance(expected, list) else None) == found


class TestParse:
    @pytest.mark.parametrize("raw", [b'{"a": 1}', b'\xef\xbb\xbf{"a": 1}'])
    def test_reads_utf_8(self, raw):
        """With or without a mark at its start."""
        assert {"a": 1} == parse(raw)

    @pytest.mark.parametrize(
        "raw",
        [
            b"",
            b"{",
            b"NaN",
            b"[Infinity]",
            b"\xff",
            b"[" * 99_999,
            b"1" * 5_000,
            b"1 1",
        ],
        ids=["nothing", "cut", "NaN", "Infinity", "bytes", "deep", "long", "two"],
    )
    def test_all_else_is_malformed(self, raw):
        """400, whatever the decoder raised."""
        with pytest.raises(Problem) as refused:
            parse(raw)

        assert 400 == refused.value.status
        assert refused.value.error.startswith("Malformed JSON")

    def test_says_where(self):
        """Line and column, not the text, which may hold a secret."""
        with pytest.raises(Problem) as refused:
            parse(b'{"a": secret}')

        assert "Malformed JSON at line 1 column 7" == refused.value.error


class TestFields:
    def test_gathers_all_complaints(self):
        """One answer is enough to mend the request."""
        fields = Fields({"a": 1, "b": "x", "c": [1], "d": {"e": 1}, "f": "no"})

        fields.text("a")
        fields.flag("b")
        fields.texts("c")
        fields.text_map("d")
        fields.word("f", {"yes": 1}, 0)
        fields.text("g", least=1)

        paths = [("a",), ("b",), ("c", 0), ("d", "e"), ("f",), ("g",)]
        assert paths == list(issues(fields))
        with pytest.raises(Problem) as refused:
            fields.done()
        assert 6 == len(refused.value.body(envelope=True)["issues"])

    def test_null_is_absent(self):
        """As the original's own clients send it."""
        fields = Fields(dict.fromkeys("abcdef"))

        assert ("", False, [], {}, 0, []) == (
            fields.text("a"),
            fields.flag("b"),
            fields.texts("c"),
            fields.text_map("d"),
            fields.word("e", {}, 0),
            fields.objects("f"),
        )
        fields.done()

    @pytest.mark.parametrize("value", [None, [], "x", 1, True])
    def test_what_is_no_object_is_one_complaint(self, value):
        """With an empty path: all of it."""
        assert {(): "must be an object"} == issues(Fields(value))

    def test_true_is_no_number_and_one_is_no_flag(self):
        """Python's own mixing of the two stays out."""
        fields = Fields({"a": 1, "b": True})

        fields.flag("a")
        fields.text("b")

        assert [("a",), ("b",)] == list(issues(fields))

    @pytest.mark.parametrize("text", ["\ud800", "a\udfffb"])
    def test_half_a_character_is_no_text(self, text):
        """JSON can spell it, nothing behind us can hold it."""
        fields = Fields({"a": text, "b": [text], "c": {"k": text}, "d": {text: "v"}})

        fields.text("a")
        fields.texts("b")
        fields.text_map("c")
        fields.text_map("d")

        assert 4 == len(fields.issues)

    def test_lengths_are_held(self):
        """In characters."""
        fields = Fields({"a": "", "b": "xxx", "c": "éé"})

        fields.text("a", least=1)
        fields.text("b", most=2)
        fields.text("c", most=2)

        assert [("a",), ("b",)] == list(issues(fields))

    def test_nobody_reads_a_million_complaints(self):
        """An answer stays small whatever was sent."""
        fields = Fields({"a": [1] * 5000})
        fields.texts("a")

        with pytest.raises(Problem) as refused:
            fields.done()

        assert ISSUES_MAX == len(refused.value.issues)
