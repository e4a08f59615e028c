"""The index of a log: what is believed of it, and what is not."""

from __future__ import annotations

import struct

import pytest

from services.supervisor.wal_index import INDEX_BYTES, LogState


def index(**changes: int) -> bytes:
    """As SQLite writes one."""
    fields = {
        "version": 3007000,
        "change": 7,
        "ready": 1,
        "page_size": 4096,
        "frame": 12,
        "page_count": 99,
        **changes,
    }
    copy = struct.pack(
        "=IIIBBHII8s8s8s",
        fields["version"],
        0,
        fields["change"],
        fields["ready"],
        0,
        fields["page_size"],
        fields["frame"],
        fields["page_count"],
        struct.pack("=II", 1, 2),
        struct.pack(">II", 10, 20),
        b"checksum",
    )
    return copy + copy + bytes(INDEX_BYTES - 96)


def test_a_state() -> None:
    """Checksum and salts read as they stand in a frame."""
    state = LogState.parse(index())

    expected = LogState(
        salts=struct.pack(">II", 10, 20),
        frame=12,
        checksum=struct.pack(">II", 1, 2),
        page_size=4096,
        page_count=99,
        change=7,
    )
    assert expected == state


def test_the_largest_page_size() -> None:
    """It does not fit its field, so 1 stands for it."""
    state = LogState.parse(index(page_size=1))

    assert state is not None
    assert 65_536 == state.page_size


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(index()[:48] + index(change=8)[48:], id="being written"),
        pytest.param(index(ready=0), id="not ready"),
        pytest.param(index(version=3008000), id="another version"),
        pytest.param(index()[:135], id="cut"),
        pytest.param(b"", id="empty"),
    ],
)
def test_what_is_not_believed(raw: bytes) -> None:
    """No state rather than a wrong one."""
    assert LogState.parse(raw) is None


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [(10, 11, True), (0xFFFF_FFFF, 0, True), (10, 10, False), (10, 12, False)],
)
def test_the_log_after(before: int, after: int, expected: bool) -> None:
    """A log that is begun anew counts one up."""
    states = []
    for salt in (before, after):
        state = LogState.parse(index())
        assert state is not None
        salts = struct.pack(">II", salt, 5)
        states.append(LogState(salts, 0, b"", 4096, 1, state.change))

    assert expected is states[1].follows(states[0])
