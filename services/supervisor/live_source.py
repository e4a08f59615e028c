"""A live database, read the fast way where that is proven, else by SQLite's backup.

Now and then everything is compared with what the fast way found. If it ever missed a
page, it is not used for this database again, not after a restart either.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

import apsw
import structlog

from services.segments.page_map import PageMap
from services.supervisor.backup_source import BackupSource
from services.supervisor.capture import Capture, Reading, StateMoved, Way
from services.supervisor.live_database import BUSY_MS, LiveDatabase, sqlite_refusals
from services.supervisor.log_position import Kept
from services.supervisor.wal_source import PIN_BYTES_MIN, WalSource
from services.supervisor.wal_view import Unreadable

log = structlog.get_logger()

CHECK_EVERY_S: Final = 86_400.0
# Ten times the length at which a pin lets go.
LOG_FRAMES_ALARM: Final = 40_000
# A log that is begun anew during each of so many readings is left to SQLite to read.
_MOVES_MAX: Final = 3


class LiveSource:
    """A `Source`. `position`: a file that keeps, over a restart, where the last save
    stands in the log; without one, the first save after a restart compares all."""

    def __init__(
        self,
        database: Path,
        scratch: Path,
        position: Path | None = None,
        *,
        busy_ms: int = BUSY_MS,
        check_every_s: float = CHECK_EVERY_S,
        pin_bytes_min: int = PIN_BYTES_MIN,
    ) -> None:
        self._database = LiveDatabase(database, busy_ms)
        self._backup = BackupSource(self._database, scratch)
        self._scratch = scratch
        self._kept = Kept(position)
        self._check_every_s = check_every_s
        self._checked_s = time.monotonic()
        self._pin_bytes_min = pin_bytes_min
        self._wal: WalSource | None = None
        self._opening = -1
        self._last: WalSource | BackupSource = self._backup
        self._alarmed = False

    @property
    def reading(self) -> Reading:
        return self._last.reading

    def changed(self) -> bool:
        with sqlite_refusals(self._database.path):
            if self._database.open() is None:
                return False
            wal = self._wal if self._opening == self._database.openings else None
            if wal is not None and self._last is wal:
                return wal.changed()
            return self._backup.changed()

    def capture(self, page_map: PageMap, *, base: bool = False) -> Capture | None:
        with sqlite_refusals(self._database.path):
            connection = self._database.open()
            if connection is None:
                return None
            wal = self._reader(connection, page_map)
            if wal is not None:
                try:
                    return self._fast_while_still(wal, page_map, base)
                except (Unreadable, StateMoved) as error:
                    log.info(
                        "save.by_backup",
                        database=str(self._database.path),
                        why=str(error) or "the log was begun anew again and again",
                    )
            return self._reference(wal, page_map, base)

    def let_go(self) -> None:
        if self._wal is not None and self._opening == self._database.openings:
            self._wal.let_go()

    def close(self) -> None:
        self._wal = None
        self._database.close()

    def _reader(
        self, connection: apsw.Connection, page_map: PageMap
    ) -> WalSource | None:
        """The fast way, if the database has a log and it was never found wrong."""
        if self._wal is None or self._opening != self._database.openings:
            self._wal = None
            if not self._kept.trusted or not _has_log(connection):
                return None
            self._wal = WalSource(
                self._database,
                self._scratch,
                self._kept.take(page_map),
                pin_bytes_min=self._pin_bytes_min,
            )
            self._opening = self._database.openings
        return self._wal

    def _fast_while_still(
        self, wal: WalSource, page_map: PageMap, base: bool
    ) -> Capture | None:
        for _ in range(_MOVES_MAX - 1):
            with suppress(StateMoved):
                return self._fast(wal, page_map, base)
        return self._fast(wal, page_map, base)

    def _fast(self, wal: WalSource, page_map: PageMap, base: bool) -> Capture | None:
        check = time.monotonic() - self._checked_s >= self._check_every_s
        capture = wal.capture(page_map, base=base, check=check)
        if check and wal.reading.way is Way.FULL:
            self._checked_s = time.monotonic()
        if wal.suspect:
            assert capture is not None, "it holds the page that was missed"
            capture.close()
            self._distrust()
            return self._reference(None, page_map, base)
        self._last = wal
        self._watch(wal.reading.log_frames)
        if capture is not None:
            capture.on_commit = self._storing(wal, page_map, capture.on_commit)
        return capture

    def _reference(
        self, wal: WalSource | None, page_map: PageMap, base: bool
    ) -> Capture | None:
        if wal is not None:
            wal.let_go()  # The reference reads through the same connection.
        capture = self._backup.capture(page_map, base=base)
        self._last = self._backup
        if wal is not None and wal.position is not None:
            # A backup writes some bytes of page 1 anew.
            wal.position = replace(wal.position, carried=wal.position.carried | {1})
        return capture

    def _watch(self, log_frames: int) -> None:
        """Says once that the log grows; what holds it is then somebody else's reader,
        for a pin lets go long before."""
        long = log_frames >= LOG_FRAMES_ALARM
        if long and not self._alarmed:
            log.warning(
                "save.log_is_long",
                database=str(self._database.path),
                log_frames=log_frames,
            )
        self._alarmed = long

    def _distrust(self) -> None:
        log.error("save.log_not_trusted", database=str(self._database.path))
        self._kept.distrust()
        self._database.close()
        self._wal = None

    def _storing(
        self, wal: WalSource, page_map: PageMap, inner: Callable[[], None] | None
    ) -> Callable[[], None]:
        def settle() -> None:
            if inner is not None:
                inner()
            self._kept.put(wal.position, page_map)

        return settle


def _has_log(connection: apsw.Connection) -> bool:
    try:
        return bool(connection.pragma("journal_mode") == "wal")
    except apsw.ReadOnlyError:
        return False  # A dead writer's journal: the reference has it rolled back.
