"""A database with its saves, and the proof that they restore to it."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import apsw

from services.segments.chain import ChainBuilder
from services.segments.encode import SegmentEncoder
from services.segments.layout import Kind
from services.segments.page_map import PageMap
from services.supervisor.capture import Capture, StateMoved, Way
from services.supervisor.live_source import LiveSource
from services.supervisor.wal_source import PIN_BYTES_MIN
from tests.support import sqlite

TRIES = 6


class Bench:
    """A database, its saves, and what they restore to."""

    def __init__(
        self, folder: Path, busy_ms: int = 50, pin_bytes_min: int = PIN_BYTES_MIN
    ) -> None:
        self._settings = {"busy_ms": busy_ms, "pin_bytes_min": pin_bytes_min}
        self.database = folder / "home" / "agent.db"
        self.scratch = folder / "scratch"
        self.database.parent.mkdir()
        self.scratch.mkdir()
        self.map = PageMap()
        self.chain: list[bytes] = []
        self.position = folder / "position"
        self._folder = folder
        self.restart()

    def restart(self) -> None:
        """A supervisor after the one before; what it kept in files is there."""
        self.source = LiveSource(
            self.database, self.scratch, self.position, **self._settings
        )

    def save(self, *, base: bool = False) -> Kind | None:
        """As a segmenter does it: a base that moved while it was read is read again."""
        for _ in range(TRIES):
            with suppress(StateMoved):
                return self._save(base)
        raise AssertionError("the database was never still")

    def _save(self, base: bool) -> Kind | None:
        capture = self.source.capture(self.map, base=base)
        if capture is None:
            return None
        with capture:
            segment = encoded(capture)
            capture.commit()
        assert capture.fingerprint in (None, self.map.fingerprint)
        kept = [] if capture.header.kind is Kind.BASE else self.chain
        self.chain = [*kept, segment]
        return capture.header.kind

    def restored(self) -> Path:
        path = self._folder / "restored"
        path.unlink(missing_ok=True)
        with ChainBuilder(path) as builder:
            for segment in self.chain:
                builder.add([segment])
            found = builder.finish()
        assert found.fingerprint == self.map.fingerprint
        return path

    def assert_saved(self) -> None:
        """The chain gives what SQLite itself reads now, and it is sound."""
        restored = self.restored()
        expected, found = sqlite.oracle(self.database), restored.read_bytes()
        if self.source.reading.way is Way.BACKUP:
            assert expected[40:44] == found[40:44]  # the schema's version is kept
            expected, found = sqlite.masked(expected), sqlite.masked(found)
        assert expected == found
        assert sqlite.soundness(restored) == "ok"


def encoded(capture: Capture) -> bytes:
    source = SegmentEncoder(capture.header, capture.blocks(), capture.fingerprint)
    return b"".join(source)


def touch(connection: apsw.Connection, *ids: int) -> None:
    for each in ids:
        connection.execute("UPDATE t SET body = randomblob(500) WHERE id = ?", (each,))


def checkpoint(connection: apsw.Connection, mode: str = "RESTART") -> None:
    connection.execute(f"PRAGMA wal_checkpoint({mode})").fetchall()


def saved(bench: Bench) -> Way:
    """The way of a save that had something to save, and was right."""
    assert bench.source.changed()
    assert bench.save() is not None
    bench.assert_saved()
    assert not bench.source.changed()
    return bench.source.reading.way
