"""The fast way: which saves it takes, and when it rather compares everything."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from services.segments.page_map import PageMap
from services.supervisor import wal_changes, wal_view
from services.supervisor.capture import StateMoved, Way
from services.supervisor.live_database import Files, LiveDatabase, begin_reading
from services.supervisor.wal_changes import Changes
from services.supervisor.wal_index import LogState
from services.supervisor.wal_log import FrameTable
from services.supervisor.wal_view import View, begin
from tests.support import sqlite
from tests.support.saves import Bench, checkpoint, saved, touch

ROWS = 2000


@pytest.fixture
def agent(bench: Bench) -> Iterator[apsw.Connection]:
    """A writer of the database of the bench, which has one saved generation."""
    with sqlite.opened(bench.database) as connection:
        sqlite.fill(connection, ROWS)
        checkpoint(connection)
        touch(connection, *range(1, 30))
        bench.save()
        yield connection


class TestOneLog:
    def test_only_what_the_log_names_is_read(
        self, bench: Bench, agent: apsw.Connection
    ) -> None:
        """The cost follows the change, not the size."""
        touch(agent, 10, 1500)

        assert Way.LOG is saved(bench)
        assert 2 == bench.source.reading.pages

    def test_a_rollback_is_not_saved(
        self, bench: Bench, agent: apsw.Connection
    ) -> None:
        """What a transaction spilled into the log and took back is nobody's."""
        touch(agent, 10)
        agent.pragma("cache_size", 5)
        agent.execute("BEGIN")
        agent.execute("UPDATE t SET body = randomblob(500)")
        agent.execute("ROLLBACK")

        assert Way.LOG is saved(bench)

    def test_pages_that_came_back(self, bench: Bench, agent: apsw.Connection) -> None:
        """Dropped and added again between two saves, a page may be all new."""
        sqlite.fill(agent, 500)
        bench.save()
        agent.execute("DELETE FROM t WHERE id > 100")
        agent.execute("VACUUM")
        sqlite.fill(agent, 3000)

        saved(bench)


class TestALogBegunAnew:
    def test_once(self, bench: Bench, agent: apsw.Connection) -> None:
        """The end of the log before is still there behind the new one."""
        touch(agent, *range(10, 400, 20))
        checkpoint(agent)
        touch(agent, 500)

        assert Way.TAIL is saved(bench)

    def test_once_with_nothing_written_since(
        self, bench: Bench, agent: apsw.Connection
    ) -> None:
        """An empty log names no page, and none is missing."""
        checkpoint(agent)
        assert bench.save() is None
        touch(agent, 500)

        assert saved(bench) in (Way.TAIL, Way.FULL)

    def test_twice(self, bench: Bench, agent: apsw.Connection) -> None:
        """Nothing tells what the log in between held: all is compared."""
        touch(agent, 10)
        checkpoint(agent)
        touch(agent, 500)
        checkpoint(agent)
        touch(agent, 900)

        assert Way.FULL is saved(bench)

    def test_from_an_empty_log(self, bench: Bench, agent: apsw.Connection) -> None:
        """Without a frame of the state before, nothing proves that none is missing."""
        checkpoint(agent, "TRUNCATE")
        bench.save()
        touch(agent, *range(10, 400, 20))
        checkpoint(agent)
        touch(agent, 500)

        assert Way.FULL is saved(bench)

    def test_so_far_that_it_reaches_the_mark(
        self, bench: Bench, agent: apsw.Connection
    ) -> None:
        """It has written over the frames that would be needed."""
        touch(agent, 10)
        checkpoint(agent)
        touch(agent, *range(20, 1900, 40))

        assert Way.FULL is saved(bench)

    def test_with_a_log_that_was_cut(
        self, bench: Bench, agent: apsw.Connection
    ) -> None:
        """Frames that a size limit cut off count as commits that are missing."""
        touch(agent, *range(10, 1000, 10))
        checkpoint(agent)
        agent.execute("PRAGMA journal_size_limit=200000").fetchall()
        touch(agent, 500)

        assert Way.FULL is saved(bench)


@pytest.mark.parametrize("failing", [1, 2, 3])
def test_a_disk_that_fails_once(
    bench: Bench, agent: apsw.Connection, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    """The save fails, and no transaction stays open to spoil the next one."""
    real, left = wal_view.look, failing

    def look(files: Files) -> LogState | None:
        nonlocal left
        left -= 1
        if not left:
            raise OSError(5, "Input/output error")
        return real(files)

    monkeypatch.setattr(wal_view, "look", look)
    touch(agent, 10)
    with pytest.raises(OSError, match="Input/output"):
        bench.save()
    monkeypatch.undo()

    assert Way.LOG is saved(bench)


class TestRestart:
    def test_goes_on_where_the_last_save_stood(
        self, bench: Bench, agent: apsw.Connection
    ) -> None:
        """No full compare because a supervisor died."""
        bench.source.close()
        touch(agent, 10)

        bench.restart()

        assert Way.LOG is saved(bench)

    def test_a_log_begun_anew_proves_nothing_then(
        self, bench: Bench, agent: apsw.Connection
    ) -> None:
        """A power cut may have taken frames before one that is still there."""
        bench.source.close()
        touch(agent, *range(10, 400, 20))
        checkpoint(agent)
        touch(agent, 500)

        bench.restart()

        assert Way.FULL is saved(bench)

    @pytest.mark.parametrize("mode", ["RESTART", "TRUNCATE"])
    def test_after_everybody_had_left(self, bench: Bench, mode: str) -> None:
        """Whoever closes last deletes the log; the next one may look the same."""
        with sqlite.opened(bench.database) as agent:
            sqlite.fill(agent, ROWS)
            checkpoint(agent, mode)
        bench.save()
        bench.source.close()
        bench.restart()
        bench.save()
        bench.source.close()
        with sqlite.opened(bench.database) as agent:
            touch(agent, 10)

        bench.restart()

        assert Way.FULL is saved(bench)

    @pytest.mark.parametrize("content", ["", "{", "[]", '{"version": 1}', "\x00\xff"])
    def test_without_a_position_that_can_be_read(
        self, bench: Bench, agent: apsw.Connection, content: str
    ) -> None:
        """It costs one full compare, no more."""
        bench.source.close()
        bench.position.write_text(content)
        touch(agent, 10)

        bench.restart()

        assert Way.FULL is saved(bench)

    def test_with_the_position_of_another_state(
        self, bench: Bench, agent: apsw.Connection
    ) -> None:
        """A page map that fell behind is not believed to stand there."""
        older = bench.position.read_bytes()
        touch(agent, 10)
        bench.save()
        bench.source.close()
        bench.position.write_bytes(older)
        touch(agent, 1500)

        bench.restart()

        assert Way.FULL is saved(bench)


class TestTheCheck:
    def test_the_fast_way_is_left_when_it_misses_a_page(
        self, bench: Bench, agent: apsw.Connection, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """For good: after a restart as well. The save itself is complete."""
        real = wal_changes.changes_since

        def careless(*args: object, **options: bool) -> Changes | None:
            found = real(*args, **options)  # type: ignore[arg-type]
            assert found is not None
            return Changes({max(found.pages)}, found.proof)

        monkeypatch.setattr(wal_changes, "changes_since", careless)
        monkeypatch.setattr(bench.source, "_check_every_s", 0.0)
        touch(agent, 10, 1500)

        assert Way.BACKUP is saved(bench)

        bench.source.close()
        bench.restart()
        touch(agent, 20)
        assert Way.BACKUP is saved(bench)

    def test_agreement_changes_nothing(
        self, bench: Bench, agent: apsw.Connection, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The check costs one full compare; the next save is fast again."""
        monkeypatch.setattr(bench.source, "_check_every_s", 0.0)
        touch(agent, 10)
        assert Way.FULL is saved(bench)
        monkeypatch.setattr(bench.source, "_check_every_s", 1e9)
        touch(agent, 20)

        assert Way.LOG is saved(bench)


def test_a_log_that_is_cut_while_it_is_read(
    bench: Bench, agent: apsw.Connection
) -> None:
    """What was in the main file when the reader came may go: another reading."""
    bench.source.close()
    checkpoint(agent, "PASSIVE")
    database = LiveDatabase(bench.database)
    connection = database.open()
    assert connection is not None
    view = begin(database, connection)
    view.attach(FrameTable())
    checkpoint(agent, "TRUNCATE")

    with pytest.raises(StateMoved):
        view.read(range(1, view.shape.page_count + 1))
    view.end()
    database.close()


def test_a_state_that_moves_while_it_is_read(
    bench: Bench, agent: apsw.Connection
) -> None:
    """A log begun anew under a reader makes a mixture of what he read."""
    bench.source.close()
    checkpoint(agent, "PASSIVE")
    database = LiveDatabase(bench.database)
    connection = database.open()
    assert connection is not None
    view = begin(database, connection)
    view.check()

    touch(agent, 10)

    with pytest.raises(StateMoved):
        view.check()
    view.end()
    database.close()


def test_a_commit_between_a_look_and_the_transaction(
    bench: Bench, agent: apsw.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state that is read is the transaction's, neither older nor newer."""
    bench.source.close()
    database = LiveDatabase(bench.database)
    connection = database.open()
    assert connection is not None
    begin(database, connection).end()

    def commits_meanwhile(connection: apsw.Connection) -> None:
        monkeypatch.undo()
        begin_reading(connection)
        touch(agent, 10)

    monkeypatch.setattr("services.supervisor.wal_view.begin_reading", commits_meanwhile)
    view = begin(database, connection)
    view.attach(FrameTable())

    found = view.read(range(1, view.shape.page_count + 1))

    assert connection.serialize("main") == found
    view.end()
    database.close()


def test_the_lock_page_is_zeros(tmp_path: Path) -> None:
    """Where SQLite has its locks there is no page, whatever bytes lie there."""
    path = tmp_path / "large"
    lock_page = (1 << 30) // 4096 + 1
    with path.open("wb") as file:
        file.truncate((lock_page + 1) * 4096)
        for page in (lock_page - 1, lock_page, lock_page + 1):
            file.seek((page - 1) * 4096)
            file.write(b"x" * 4096)
    with path.open("rb") as file:
        files = Files(file.fileno(), file.fileno(), file.fileno())
        state = LogState(b"", 0, b"", 4096, lock_page + 1, 0)
        connection = apsw.Connection(":memory:")
        view = View(LiveDatabase(path), connection, files, state)

        found = view.read(range(lock_page - 1, lock_page + 2))
        connection.close()

    assert b"x" * 4096 + bytes(4096) + b"x" * 4096 == found


def test_a_map_of_another_page_size_is_a_base(
    bench: Bench, agent: apsw.Connection
) -> None:
    """Nothing of it says anything about these pages."""
    bench.map = PageMap(512)
    touch(agent, 10)

    assert Way.BASE is saved(bench)
