"""Which pages a log proves to be all that changed: the rules, on logs made by hand."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from services.supervisor.wal_changes import Changes, Proof, changes_since
from services.supervisor.wal_index import LogState
from services.supervisor.wal_log import FrameTable, Log

SIZE = 512
OLD = struct.pack(">II", 7, 1)
NEW = struct.pack(">II", 8, 2)

Frame = tuple[int, int, bytes]  # page, database size if it ends a commit, salts


class Written:
    """A log as its writer left it."""

    def __init__(self, path: Path, frames: list[Frame]) -> None:
        raw = bytearray(32)
        for number, (page, commit_pages, salts) in enumerate(frames, 1):
            checksum = struct.pack(">II", number, number)
            raw += struct.pack(">II8s8s", page, commit_pages, salts, checksum)
            raw += bytes(SIZE)
        path.write_bytes(raw)
        self._file = path.open("rb")
        self._frames = frames
        self.log = Log(self._file.fileno(), SIZE)

    def state(self, frame: int, page_count: int, change: int = 0) -> LogState:
        """The state that ended with this frame."""
        salts = self._frames[frame - 1][2] if frame else OLD
        checksum = struct.pack(">II", frame, frame)
        return LogState(salts, frame, checksum, SIZE, page_count, change)

    def since(
        self, earlier: LogState, now: LogState, *, held: bool = False
    ) -> Changes | None:
        table = FrameTable()
        table.extend(now, self.log)
        return changes_since(earlier, now, table, self.log, held=held)

    def close(self) -> None:
        self._file.close()


@pytest.fixture
def written(tmp_path: Path) -> Iterator[type[Written]]:
    """Makes logs, and closes them at the end."""
    made: list[Written] = []

    class Kept(Written):
        def __init__(self, *frames: Frame) -> None:
            super().__init__(tmp_path / f"log-{len(made)}", list(frames))
            made.append(self)

    yield Kept
    for each in made:
        each.close()


def test_the_frames_since(written) -> None:
    """In one log, nothing else can have changed."""
    log = written((3, 9, OLD), (4, 0, OLD), (5, 9, OLD))

    found = log.since(log.state(1, 9), log.state(3, 9))

    assert Changes({4, 5}, Proof.SAME_LOG) == found


def test_a_last_frame_that_is_another_now(written) -> None:
    """A log that lost its end and went on from there has the same salts."""
    log = written((3, 9, OLD), (4, 9, OLD))
    lost = replace(log.state(1, 9), checksum=b"another!")

    assert log.since(lost, log.state(2, 9)) is None


def test_pages_that_were_gone_for_a_while(written) -> None:
    """SQLite need not write a page of its free list that it got back."""
    log = written((1, 9, OLD), (1, 4, OLD), (1, 8, OLD))

    found = log.since(log.state(1, 9), log.state(3, 8))

    assert found is not None
    assert {1, 5, 6, 7, 8} == found.pages


def test_pages_beyond_the_end(written) -> None:
    """What the database has no more is no change that a save could hold."""
    log = written((1, 9, OLD), (9, 9, OLD), (1, 4, OLD))

    found = log.since(log.state(1, 9), log.state(3, 4))

    assert found is not None
    assert {1} == found.pages


def test_the_old_end_behind_a_new_log(written) -> None:
    """Up to the first frame that is of neither log, which proves that none is cut."""
    older = struct.pack(">II", 6, 3)
    log = written((2, 9, NEW), (3, 9, OLD), (4, 9, OLD), (5, 9, older))

    found = log.since(log.state(2, 9), log.state(1, 9, change=1000))

    assert Changes({2, 4}, Proof.TAIL) == found


@pytest.mark.parametrize(("change", "proven"), [(2, True), (3, False)])
def test_an_end_that_may_be_cut(written, change: int, proven: bool) -> None:
    """At the end of the file the commits must be as many as the index counted."""
    log = written((2, 9, NEW), (3, 9, OLD), (4, 9, OLD))

    found = log.since(log.state(2, 9), log.state(1, 9, change=change))

    assert proven is (found is not None)


def test_a_reader_that_stood_on_the_old_log(written) -> None:
    """He needs nothing of the old one, written over or not."""
    log = written((2, 9, NEW), (6, 9, NEW))
    earlier = LogState(OLD, 1, b"whatever", SIZE, 9, 0)

    assert log.since(earlier, log.state(2, 9)) is None
    assert Changes({2, 6}, Proof.TAIL) == log.since(earlier, log.state(2, 9), held=True)
