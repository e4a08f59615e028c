"""The frames of a write-ahead log: which pages they hold, and where.

Only frames up to a committed one are looked at, and each must carry the salts of its
log: a frame left by an earlier log looks the same otherwise.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator
from typing import Final, NamedTuple

from services.segments.disk import read_all
from services.supervisor.capture import StateMoved
from services.supervisor.wal_index import LogState

_HEAD: Final = struct.Struct(">II8s8s")
_LOG_HEAD_BYTES: Final = 32


class Frame(NamedTuple):
    """The head of one frame."""

    page: int
    commit_pages: int  # size of the database if the frame ends a commit, else 0
    salts: bytes
    checksum: bytes


class Log:
    """Reads frames through a descriptor that somebody else owns."""

    def __init__(self, descriptor: int, page_size: int) -> None:
        self._descriptor = descriptor
        self._page_size = page_size

    def frame(self, number: int) -> Frame | None:
        """The head of frame 1, 2, 3 …; None beyond the end of the file."""
        raw = read_all(self._descriptor, _HEAD.size, self._offset(number))
        return Frame._make(_HEAD.unpack(raw)) if len(raw) == _HEAD.size else None

    def page(self, number: int) -> bytes:
        """The page that the frame holds. Raises StateMoved."""
        offset = self._offset(number) + _HEAD.size
        data = read_all(self._descriptor, self._page_size, offset)
        if len(data) != self._page_size:
            raise StateMoved  # A checkpoint has cut the log.
        return data

    def _offset(self, number: int) -> int:
        return _LOG_HEAD_BYTES + (number - 1) * (_HEAD.size + self._page_size)


class FrameTable:
    """Which frame of the current log holds the latest version of a page.

    Grows with the log and is emptied when another log begins, so a save reads only
    the heads of frames that are new. Takes some 60 bytes a frame.
    """

    def __init__(self) -> None:
        self._salts = b""
        self._pages = array("I")
        self._commits: list[tuple[int, int]] = []
        self._latest: dict[int, int] = {}

    def extend(self, state: LogState, log: Log) -> None:
        """Reads up to the state's last frame. Raises StateMoved."""
        if state.salts != self._salts or state.frame < len(self._pages):
            self._salts = state.salts
            self._pages = array("I")
            self._commits = []
            self._latest = {}
        for number in range(len(self._pages) + 1, state.frame + 1):
            frame = log.frame(number)
            if frame is None or frame.salts != state.salts:
                self._salts = b""
                raise StateMoved
            self._pages.append(frame.page)
            self._latest[frame.page] = number
            if frame.commit_pages:
                self._commits.append((number, frame.commit_pages))

    def latest(self, page: int) -> int | None:
        """The frame with the page's latest version; None: only the main file has it."""
        return self._latest.get(page)

    def pages_after(self, frame: int) -> set[int]:
        """The pages in the frames after this one."""
        return set(self._pages[frame:])

    def commits_after(self, frame: int) -> list[int]:
        """The sizes in pages that the commits after this frame left, in order."""
        return [size for at, size in self._commits if at > frame]


def leftover_frames(log: Log, after: int, salts: bytes) -> Iterator[Frame | None]:
    """Frames of an earlier log that lie behind the end of the current one; a last None
    says that the file ended, not that a strange frame followed."""
    while True:
        after += 1
        frame = log.frame(after)
        if frame is None:
            yield None
            return
        if frame.salts != salts:
            return
        yield frame
