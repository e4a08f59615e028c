"""One committed state of a live database in WAL mode, read without SQLite's help.

A read transaction between two equal looks at the log's index stands on exactly the
state that the index tells. Frames up to it, and pages without a frame, stand still as
long as the transaction lasts, unless the whole log was in the main file already when it
began: then a writer may begin the log anew, which shows in its salts.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import apsw

from services.segments.disk import read_all
from services.segments.layout import is_page_size
from services.supervisor.capture import Shape, StateMoved
from services.supervisor.live_database import (
    Files,
    LiveDatabase,
    begin_reading,
    end_reading,
)
from services.supervisor.wal_index import INDEX_BYTES, LogState
from services.supervisor.wal_log import FrameTable, Log

# A writer that commits all the time was seen to spoil 75 looks in 1,500 saves.
_LOOKS_MAX: Final = 100
# Above this, the table of frames takes more memory than a supervisor may.
FRAMES_MAX: Final = 200_000
# Where SQLite has its locks, in the middle of a large file: in no page of anybody's.
_LOCK_BYTE: Final = 1 << 30


class Unreadable(Exception):
    """The log cannot be read this way: use the reference."""


class View:
    """Borrows a connection, whose read transaction it ends."""

    def __init__(
        self,
        database: LiveDatabase,
        connection: apsw.Connection,
        files: Files,
        state: LogState,
    ) -> None:
        self.connection = connection
        self.state = state
        self.shape = Shape(state.page_size, state.page_count)
        self.log = Log(files.log, state.page_size)
        self._database = database
        self._opening = database.openings
        self._files = files
        self._table = FrameTable()
        self._lock_page = _LOCK_BYTE // state.page_size + 1

    def attach(self, table: FrameTable) -> None:
        """Reads which frames there are. Raises StateMoved."""
        table.extend(self.state, self.log)
        self._table = table

    def read(self, numbers: Sequence[int]) -> bytes:
        """The pages, one after the other. Raises StateMoved."""
        if self._database.openings != self._opening:
            raise StateMoved  # The descriptors may be anybody's by now.
        if numbers[-1] - numbers[0] == len(numbers) - 1:
            return self._read_run(numbers[0], len(numbers))
        return b"".join([self._read_run(number, 1) for number in numbers])

    def _read_run(self, first: int, count: int) -> bytes:
        size = self.shape.page_size
        latest = self._table.latest
        frames = [(at, latest(first + at)) for at in range(count)]
        if count == 1 and frames[0][1] is not None:
            return self.log.page(frames[0][1])
        data = bytearray(read_all(self._files.main, count * size, (first - 1) * size))
        # What was never checkpointed lies beyond the end of the main file.
        data += bytes(count * size - len(data))
        for at, frame in frames:
            if frame is not None:
                data[at * size : (at + 1) * size] = self.log.page(frame)
        if first <= self._lock_page < first + count:
            at = self._lock_page - first
            data[at * size : (at + 1) * size] = bytes(size)
        return bytes(data)

    def check(self) -> None:
        """Raises StateMoved unless all that was read so far is of this state."""
        now = look(self._files)
        if now is None or now.salts != self.state.salts:
            raise StateMoved

    def log_has_moved(self) -> bool:
        """Whether a writer has begun the log anew."""
        now = look(self._files)
        return now is not None and now.salts != self.state.salts

    def end(self) -> None:
        """Ends the read transaction. Safe to repeat."""
        if self._database.openings == self._opening:
            end_reading(self.connection)


def look(files: Files) -> LogState | None:
    """The newest committed state; None while somebody changes it."""
    return LogState.parse(os.pread(files.index, INDEX_BYTES, 0))


def begin(database: LiveDatabase, connection: apsw.Connection) -> View:
    """Opens a read transaction on a state that is known. Raises Unreadable."""
    for _ in range(_LOOKS_MAX):
        files = database.files()
        before = look(files) if files is not None else None
        begin_reading(connection)
        try:
            view = _begun(database, connection, before)
        except BaseException:
            end_reading(connection)
            raise
        if view is not None:
            return view
        end_reading(connection)
    raise Unreadable("the log's index never stood still, or is of another version")


def _begun(
    database: LiveDatabase, connection: apsw.Connection, before: LogState | None
) -> View | None:
    """The view, if the state is the one from before the transaction began."""
    files = database.files()
    if files is None:
        raise Unreadable("the database has no log")
    after = look(files)
    if after is None or before != after:
        return None
    state = _shaped(after, files)
    if state.frame > FRAMES_MAX or not is_page_size(state.page_size):
        raise Unreadable("the log is too long, or of an unknown kind")
    return View(database, connection, files, state)


def _shaped(state: LogState, files: Files) -> LogState:
    """An empty log may not know the database's shape; the main file does."""
    if state.frame and state.page_size and state.page_count:
        return state
    raw = int.from_bytes(os.pread(files.main, 2, 16), "big")
    page_size = 65_536 if raw == 1 else raw
    if not is_page_size(page_size):
        return replace(state, page_size=0)
    count = os.fstat(files.main).st_size // page_size
    return replace(state, page_size=page_size, page_count=count)
