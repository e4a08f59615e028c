"""Stdout of an exec program: lines that are JSON objects, and everything else."""

from typing import Any

import pytest

from services.supervisor.exec_lines import LINE_BYTES_MAX, JsonLines


def split(*chunks):
    """What comes out: dicts and bytes, in order, neighbouring bytes joined."""
    found: list[Any] = []
    lines = JsonLines(lambda event, size: found.append(event), found.append)
    for chunk in chunks:
        lines.feed(chunk)
    lines.end()
    joined: list[Any] = []
    for item in found:
        if isinstance(item, bytes) and joined and isinstance(joined[-1], bytes):
            joined[-1] += item
        else:
            joined.append(item)
    return joined


@pytest.mark.parametrize(
    ("chunks", "expected"),
    [
        pytest.param([b'{"a":1}\n'], [{"a": 1}], id="one event"),
        pytest.param([b'{"a"', b":1}", b"\n"], [{"a": 1}], id="cut anywhere"),
        pytest.param([b'{"a":1}'], [{"a": 1}], id="no last newline"),
        pytest.param([b'  {"a":1} \r\n'], [{"a": 1}], id="spaces around"),
        pytest.param([b"42\n[1]\n"], [b"42\n[1]\n"], id="json but no object"),
        pytest.param([b"{oops\n"], [b"{oops\n"], id="looks like one"),
        pytest.param([b"{" * 9000 + b"\n"], [b"{" * 9000 + b"\n"], id="deep"),
        pytest.param(
            [b'x\n{"a":1}\ny', b'{"b":2}\n'],
            [b"x\n", {"a": 1}, b'y{"b":2}\n'],
            id="order kept, objects only at the start of a line",
        ),
        pytest.param([b"\xff\xfe\n"], [b"\xff\xfe\n"], id="not utf-8"),
        pytest.param([b"12%\r34%\r"], [b"12%\r34%\r"], id="progress bar"),
    ],
)
def test_objects_are_told_from_other_lines(chunks, expected):
    """Only a whole line that is a JSON object is an event."""
    assert expected == split(*chunks)


def test_a_line_without_an_end_is_output():
    """Memory stays bounded: beyond the limit the rest of the line is passed on."""
    held: list[bytes] = []
    lines = JsonLines(lambda event, size: None, held.append)

    for _ in range(40):
        lines.feed(b"{" + b"x" * (LINE_BYTES_MAX // 10))

    assert sum(len(piece) for piece in held) > 2 * LINE_BYTES_MAX
