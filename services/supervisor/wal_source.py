"""The fast way to read a live database in WAL mode: only the pages that can have
changed since the last save, found in the log and proven to be all.

For a large database, where a full compare hurts, the last read transaction stays open
until the next save ("pinned"): so long no writer begins the log anew, and the log
names every page. A pin that never lets go would let the log grow for ever.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import apsw

from services.segments.layout import Header
from services.segments.page_map import PageMap
from services.supervisor import wal_changes, wal_view
from services.supervisor.capture import (
    Capture,
    Entries,
    Reading,
    StateMoved,
    StreamedPages,
    Way,
)
from services.supervisor.changes import all_pages, delta
from services.supervisor.live_database import LiveDatabase
from services.supervisor.log_position import Position
from services.supervisor.wal_changes import Changes
from services.supervisor.wal_index import LogState
from services.supervisor.wal_log import FrameTable
from services.supervisor.wal_view import Unreadable, View, look

# A full compare of this much takes a quarter of a second.
PIN_BYTES_MIN: Final = 256 << 20
# With pages of 4 KiB a log of 16 MiB; SQLite itself checkpoints at 1,000.
PIN_FRAMES_MAX: Final = 4000
IDLE_FRAMES_MAX: Final = 1000
IDLE_S: Final = 10.0
# For so long a save waits for a busy writer to begin the log anew.
_LET_GO_S: Final = 0.1
_LOOK_EVERY_S: Final = 0.005
_PAGES_AT_ONCE: Final = 256


class WalSource:
    """Captures of one opening of a database. Raises Unreadable and StateMoved."""

    def __init__(
        self,
        database: LiveDatabase,
        scratch: Path,
        position: Position | None = None,
        *,
        pin_bytes_min: int = PIN_BYTES_MIN,
    ) -> None:
        self.position = position  # of the last committed capture; None: unknown
        self.reading = Reading(Way.NOTHING)
        self.suspect = False  # a full compare found what the log had not named
        self._database = database
        self._scratch = scratch
        self._pin_bytes_min = pin_bytes_min
        self._table = FrameTable()
        self._pin: View | None = None
        self._captured_s = 0.0

    def changed(self) -> bool:
        """Whether the log has moved since the last committed capture."""
        files = self._database.files()
        state = look(files) if files is not None else None
        if state is not None and state.frame >= PIN_FRAMES_MAX:
            self.let_go()  # Also while a save waits for its store and none is read.
        if self.position is None or self.position.carried or state is None:
            return True
        if not _same(state, self.position.state):
            return True
        idle_s = time.monotonic() - self._captured_s
        if state.frame >= IDLE_FRAMES_MAX and idle_s >= IDLE_S:
            self.let_go()  # The agent rests: its log may be begun anew.
        return False

    def capture(self, page_map: PageMap, *, base: bool, check: bool) -> Capture | None:
        """As `Source` says; `check`: compares everything with what the log says."""
        begun_s = self._captured_s = time.monotonic()
        view = wal_view.begin(self._database, self._free())
        try:
            view.attach(self._table)
            found = self._found(view, page_map, base, check)
            if isinstance(found, Header):
                return self._streamed(view, found, page_map, begun_s)
            try:
                view.check()
                position = self._rest(view, begun_s)
            except BaseException:
                if found is not None:
                    found.close()
                raise
        except BaseException:
            view.end()
            raise
        if found is None:
            self.position = position
        else:
            found.on_commit = self._settling(position)
        return found

    def let_go(self) -> None:
        """Ends the read transaction that was kept, if one was."""
        if self._pin is not None:
            self._pin.end()
            self._pin = None

    def _free(self) -> apsw.Connection:
        """The connection that does not hold the pin."""
        first = self._database.open()
        assert first is not None, "whoever asks has opened it"
        if self._pin is not None and self._pin.connection is first:
            return self._database.second()
        return first

    def _found(
        self, view: View, page_map: PageMap, base: bool, check: bool
    ) -> Capture | Header | None:
        if base or page_map.page_size != view.shape.page_size:
            return Header.base(*view.shape)
        changes = self._changes(view)
        if changes is None or check:
            self.reading = Reading(Way.FULL, view.shape.page_count)
            groups: Iterable[Sequence[int]] = all_pages(view.shape)
        else:
            self.reading = Reading(Way(changes.proof), len(changes.pages))
            groups = _grouped(changes.pages)
        found = delta(groups, view.read, view.shape, page_map, self._scratch)
        if check and changes is not None and isinstance(found, Capture):
            self.suspect = not changes.pages.issuperset(found.numbers())
        return found

    def _changes(self, view: View) -> Changes | None:
        if self.position is None:
            return None
        salts = self.position.state.salts
        if self.position.earlier_life and salts != view.state.salts:
            return None
        held = self._pin is not None and self._pin.state == self.position.state
        found = wal_changes.changes_since(
            self.position.state, view.state, self._table, view.log, held=held
        )
        if found is None:
            return None
        count = view.shape.page_count
        carried = {page for page in self.position.carried if page <= count}
        return Changes(found.pages | carried, found.proof)

    def _streamed(
        self, view: View, header: Header, page_map: PageMap, begun_s: float
    ) -> Capture:
        """All pages, to be read while the transaction of the view lasts."""

        self.reading = Reading(Way.BASE, view.shape.page_count)
        stands: list[Position] = []

        def done(complete: bool) -> None:
            if not complete:
                view.end()
                return
            try:
                view.check()
            except StateMoved:
                view.end()
                raise
            stands.append(self._rest(view, begun_s))

        def settle() -> None:
            [self.position] = stands

        pages = StreamedPages(view.read, done)
        capture = Capture(header, Entries(self._scratch), pages, page_map)
        capture.on_commit = settle
        return capture

    def _settling(self, position: Position) -> Callable[[], None]:
        def settle() -> None:
            self.position = position

        return settle

    def _rest(self, view: View, begun_s: float) -> Position:
        """Ends the view, or keeps it as the pin; from where the next save counts."""
        self.let_go()
        self.reading = replace(
            self.reading,
            held_s=time.monotonic() - begun_s,
            log_frames=view.state.frame,
        )
        position = Position(view.state)
        shape = view.shape
        if shape.page_size * shape.page_count < self._pin_bytes_min:
            view.end()
        elif view.state.frame < PIN_FRAMES_MAX:
            self._pin = view
        else:
            view.end()
            if _began_anew(view):
                return self._followed(position)
        return position

    def _followed(self, position: Position) -> Position:
        """Further along the log, with the pages that it names on the way; pinned."""
        try:
            view = wal_view.begin(self._database, self._free())
        except (Unreadable, apsw.Error):
            return position
        try:
            view.attach(self._table)
            found = wal_changes.changes_since(
                position.state, view.state, self._table, view.log, held=False
            )
            view.check()
        except (StateMoved, apsw.Error):
            found = None
        except BaseException:
            view.end()
            raise
        if found is None:
            view.end()
            return position
        self._pin = view
        return Position(view.state, frozenset(found.pages))


def _began_anew(view: View) -> bool:
    """Waits a moment for a writer to begin the log anew, now that nothing keeps it."""
    deadline_s = time.monotonic() + _LET_GO_S
    while not view.log_has_moved():
        if time.monotonic() >= deadline_s:
            return False
        time.sleep(_LOOK_EVERY_S)
    return True


def _same(state: LogState, earlier: LogState) -> bool:
    if state.frame:
        return state == earlier
    # An empty log may not tell the shape, which was then taken from the main file.
    return earlier == replace(
        state, page_size=earlier.page_size, page_count=earlier.page_count
    )


def _grouped(pages: set[int]) -> Iterator[Sequence[int]]:
    rising = sorted(pages)
    for start in range(0, len(rising), _PAGES_AT_ONCE):
        yield rising[start : start + _PAGES_AT_ONCE]
