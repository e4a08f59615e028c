"""Saves of a live database: complete, consistent, and none when nothing changed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from services.chassis.errors import Reason, ServiceError
from services.segments.layout import Kind
from services.segments.page_map import PageMap
from services.supervisor.backup_source import BackupSource
from tests.support import sqlite
from tests.support.saves import Bench, encoded


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.source.close()


@pytest.mark.parametrize("mode", ["wal", "delete", "truncate", "persist"])
@pytest.mark.parametrize("page_size", [512, 4096, 65_536])
def test_a_base_and_then_deltas(bench: Bench, mode: str, page_size: int) -> None:
    """What is not checkpointed counts too; a small change is a small segment."""
    with sqlite.opened(bench.database, mode, page_size) as agent:
        sqlite.fill(agent, 400, size=page_size // 2)
        assert Kind.BASE is bench.save()
        bench.assert_saved()

        agent.execute("UPDATE t SET body = zeroblob(10) WHERE id = 200")
        assert Kind.DELTA is bench.save()

        bench.assert_saved()
        assert len(bench.chain[1]) < len(bench.chain[0]) / 4


class TestNothingToSave:
    def test_before_the_database_is_there(self, bench: Bench) -> None:
        """An agent that has not begun has nothing to lose."""
        assert not bench.source.changed()
        assert bench.save() is None

    def test_while_it_is_empty(self, bench: Bench) -> None:
        """Zero bytes are no database yet."""
        bench.database.touch()

        assert not bench.source.changed()
        assert bench.save() is None

    def test_without_the_folder(self, bench: Bench) -> None:
        """The home may not be made yet."""
        bench.database.parent.rmdir()

        assert not bench.source.changed()
        assert bench.save() is None

    def test_idle(self, bench: Bench) -> None:
        """An idle agent costs no save and no write, and is recognised without
        reading the database."""
        with sqlite.opened(bench.database) as agent:
            sqlite.fill(agent, 10)
            bench.save()
            before = stamps(bench)

            assert not bench.source.changed()
            assert bench.save() is None
            assert not bench.source.changed()

            assert before == stamps(bench)

    def test_a_commit_that_leaves_every_page_as_it_was(self, bench: Bench) -> None:
        """Commits are noticed, then compared: equal pages are no generation."""
        with sqlite.opened(bench.database) as agent:
            sqlite.fill(agent, 10)
            bench.save()

            agent.execute("PRAGMA user_version=0")

            assert bench.source.changed()
            assert bench.save() is None
            assert not bench.source.changed()


def stamps(bench: Bench) -> dict[str, tuple[int, int]]:
    folders = (bench.database.parent, bench.scratch)
    files = [path for folder in folders for path in folder.iterdir()]
    return {p.name: (p.stat().st_mtime_ns, p.stat().st_size) for p in files}


class TestChanged:
    @pytest.mark.parametrize("mode", ["wal", "delete"])
    def test_until_a_save_is_acknowledged(self, bench: Bench, mode: str) -> None:
        """A capture that went nowhere leaves the change to be saved."""
        with sqlite.opened(bench.database, mode) as agent:
            sqlite.fill(agent, 10)
            bench.save()
            agent.execute("INSERT INTO t(body) VALUES(1)")
            assert bench.source.changed()

            capture = bench.source.capture(bench.map)
            assert capture is not None
            capture.close()

            assert bench.source.changed()
            assert bench.save() is not None
            assert not bench.source.changed()
            bench.assert_saved()

    def test_by_a_commit_during_the_save(self, bench: Bench) -> None:
        """What comes while a save is on its way is the next one's."""
        with sqlite.opened(bench.database) as agent:
            sqlite.fill(agent, 10)
            capture = bench.source.capture(bench.map)
            assert capture is not None
            agent.execute("INSERT INTO t(body) VALUES(1)")

            bench.chain = [encoded(capture)]
            capture.commit()
            capture.close()

            assert bench.source.changed()
            assert bench.save() is not None
            bench.assert_saved()

    def test_by_a_checkpoint_or_not_all_stays_saved(self, bench: Bench) -> None:
        """Moving pages from the log to the file changes nothing that is read."""
        with sqlite.opened(bench.database) as agent:
            sqlite.fill(agent, 100)
            bench.save()

            agent.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

            assert bench.save() is None
            bench.assert_saved()


class TestShapes:
    @pytest.mark.parametrize("mode", ["wal", "delete"])
    def test_growth_and_shrinking(self, bench: Bench, mode: str) -> None:
        """A database may become smaller than it was, and larger again."""
        with sqlite.opened(bench.database, mode) as agent:
            sqlite.fill(agent, 200)
            bench.save()
            agent.execute("PRAGMA auto_vacuum=0")
            agent.execute("DELETE FROM t WHERE id > 30")
            agent.execute("VACUUM")
            assert bench.save() is not None
            bench.assert_saved()

            sqlite.fill(agent, 300)
            assert bench.save() is not None
            bench.assert_saved()

    def test_another_page_size(self, bench: Bench) -> None:
        """Pages of another size are another database: a base."""
        with sqlite.opened(bench.database, "delete", 4096) as agent:
            sqlite.fill(agent, 50)
            bench.save()
            agent.execute("PRAGMA page_size=1024")
            agent.execute("VACUUM")

            assert Kind.BASE is bench.save()
            bench.assert_saved()

    def test_most_pages_changed(self, bench: Bench) -> None:
        """A delta as large as a base is a base."""
        with sqlite.opened(bench.database) as agent:
            sqlite.fill(agent, 100)
            bench.save()
            agent.execute("UPDATE t SET body = randomblob(500)")

            assert Kind.BASE is bench.save()
            bench.assert_saved()

    def test_a_base_on_request(self, bench: Bench) -> None:
        """A chain that is long enough begins anew, changed or not."""
        with sqlite.opened(bench.database) as agent:
            sqlite.fill(agent, 100)
            bench.save()

            assert Kind.BASE is bench.save(base=True)
            bench.assert_saved()

    def test_a_map_kept_over_a_restart(self, bench: Bench) -> None:
        """A supervisor that starts again goes on with a delta."""
        with sqlite.opened(bench.database) as agent:
            sqlite.fill(agent, 100)
            bench.save()
            bench.map.save(bench.scratch / "map")
            bench.source.close()
            agent.execute("INSERT INTO t(body) VALUES(1)")

            known = PageMap.load(bench.scratch / "map")
            assert known is not None
            bench.map = known
            bench.source = BackupSource(bench.database, bench.scratch)

            assert Kind.DELTA is bench.save()
            bench.assert_saved()


class TestReplaced:
    def test_by_another_file(self, bench: Bench) -> None:
        """What lies at the path counts, not what was opened once."""
        other = bench.scratch / "other.db"
        with sqlite.opened(other, "delete") as agent:
            sqlite.fill(agent, 70)
        with sqlite.opened(bench.database, "delete") as agent:
            sqlite.fill(agent, 50)
        bench.save()

        os.replace(other, bench.database)

        assert bench.source.changed()
        assert bench.save() is not None
        bench.assert_saved()

    def test_by_nothing(self, bench: Bench) -> None:
        """Deleted: the generations stay, and a new one begins when it is back."""
        with sqlite.opened(bench.database, "delete") as agent:
            sqlite.fill(agent, 50)
        bench.save()
        bench.database.unlink()

        assert not bench.source.changed()
        assert bench.save() is None

        with sqlite.opened(bench.database, "delete") as agent:
            sqlite.fill(agent, 5)
        assert bench.save() is not None
        bench.assert_saved()


class TestLeftBehind:
    """Writers that died: what they committed is there, what they did not is not."""

    def test_a_hot_journal_is_rolled_back(self, bench: Bench) -> None:
        """The half-written transaction of a dead writer is undone first."""
        sqlite.left_by_the_dead(
            bench.database.parent,
            "c = apsw.Connection('agent.db')\n"
            "c.execute('PRAGMA cache_size=5; CREATE TABLE t(a)')\n"
            "c.execute('INSERT INTO t VALUES(1); BEGIN')\n"
            "for _ in range(300): c.execute('INSERT INTO t VALUES(randomblob(3000))')",
        )
        assert bench.database.with_name("agent.db-journal").stat().st_size > 512

        assert Kind.BASE is bench.save()

        bench.assert_saved()
        with sqlite.opened(bench.restored(), "delete") as read:
            assert [(1,)] == read.execute("SELECT count(*) FROM t").fetchall()

    @pytest.mark.parametrize("index", ["kept", "lost"])
    def test_a_log_is_read(self, bench: Bench, index: str) -> None:
        """All of a short session may stand in the log alone, with or without -shm."""
        sqlite.left_by_the_dead(
            bench.database.parent,
            "c = apsw.Connection('agent.db')\n"
            "c.execute('PRAGMA journal_mode=wal; CREATE TABLE t(a)').fetchall()\n"
            "c.execute('INSERT INTO t VALUES(1)')",
        )
        if index == "lost":
            bench.database.with_name("agent.db-shm").unlink()

        assert Kind.BASE is bench.save()

        bench.assert_saved()
        with sqlite.opened(bench.restored(), "delete") as read:
            assert [(1,)] == read.execute("SELECT count(*) FROM t").fetchall()

    def test_we_never_checkpoint(self, bench: Bench) -> None:
        """As last to close we leave file and log as the agent left them."""
        sqlite.left_by_the_dead(
            bench.database.parent,
            "c = apsw.Connection('agent.db')\n"
            "c.execute('PRAGMA journal_mode=wal; CREATE TABLE t(a)').fetchall()\n",
        )
        log = bench.database.with_name("agent.db-wal")
        before = bench.database.read_bytes(), log.read_bytes()

        bench.save()
        bench.source.close()

        assert before == (bench.database.read_bytes(), log.read_bytes())


class TestRefusals:
    @pytest.mark.parametrize(
        ("make", "reason"),
        [
            pytest.param(
                lambda p: p.symlink_to("/etc/passwd"), Reason.FIELD_INVALID, id="link"
            ),
            pytest.param(lambda p: p.mkdir(), Reason.FIELD_INVALID, id="folder"),
            pytest.param(os.mkfifo, Reason.FIELD_INVALID, id="pipe"),
            pytest.param(
                lambda p: p.write_bytes(b"no database " * 500),
                Reason.NOT_A_DATABASE,
                id="other bytes",
            ),
        ],
    )
    def test_what_is_no_database(self, bench: Bench, make, reason: Reason) -> None:
        """Refused with what to do, never hung on and never followed."""
        make(bench.database)

        with pytest.raises(ServiceError, match=r"^cannot save .*[^.]$") as refused:
            bench.save()

        assert reason is refused.value.reason
        assert [] == list(bench.scratch.iterdir())

    def test_a_link_on_the_way(self, bench: Bench) -> None:
        """SQLite itself walks the path and follows nothing."""
        with sqlite.opened(bench.database, "delete") as agent:
            sqlite.fill(agent, 5)
        link = bench.database.parent.with_name("link")
        link.symlink_to(bench.database.parent)
        source = BackupSource(link / bench.database.name, bench.scratch)

        with pytest.raises(ServiceError, match="cannot save"):
            source.capture(PageMap())
        source.close()

    def test_a_database_that_its_agent_keeps_locked(self, bench: Bench) -> None:
        """Try again later; as long as it lasts, it counts as changed."""
        with sqlite.opened(bench.database, "delete") as agent:
            sqlite.fill(agent, 5)
            bench.save()
            agent.execute("BEGIN EXCLUSIVE")
            agent.execute("INSERT INTO t(body) VALUES(1)")

            assert bench.source.changed()
            with pytest.raises(ServiceError) as refused:
                bench.save()
            agent.execute("COMMIT")

            assert Reason.SERVICE_UNAVAILABLE is refused.value.reason
            assert bench.save() is not None
            bench.assert_saved()

    def test_a_second_owner(self, bench: Bench) -> None:
        """Two owners would mistake each other's locks for their own."""
        with sqlite.opened(bench.database, "delete") as agent:
            sqlite.fill(agent, 5)
        bench.save()
        second = BackupSource(bench.database, bench.scratch)

        with pytest.raises(ServiceError) as refused:
            second.capture(PageMap())
        bench.source.close()

        assert Reason.LEASE_HELD is refused.value.reason
        capture = second.capture(PageMap())
        assert capture is not None
        capture.close()
        second.close()

    def test_a_damaged_database(self, bench: Bench) -> None:
        """Saved generations stay as they are; this state is reported."""
        with sqlite.opened(bench.database, "delete") as agent:
            sqlite.fill(agent, 50)
        raw = bytearray(bench.database.read_bytes())
        raw[100:4096] = b"\xff" * 3996
        bench.database.write_bytes(raw)

        with pytest.raises(ServiceError) as refused:
            bench.save()

        assert Reason.SNAPSHOT_CORRUPT is refused.value.reason

    def test_a_commit_on_a_map_that_moved_on(self, bench: Bench) -> None:
        """Two captures of one state cannot both become the next one."""
        with sqlite.opened(bench.database) as agent:
            sqlite.fill(agent, 50)
            bench.save()
            agent.execute("INSERT INTO t(body) VALUES(1)")
            capture = bench.source.capture(bench.map)
            assert capture is not None
            bench.save()

            with capture, pytest.raises(ValueError, match="moved on"):
                capture.commit()


def test_captures_leave_no_scratch_behind(bench: Bench) -> None:
    """Names are gone at once, space when the capture is closed."""
    with sqlite.opened(bench.database) as agent:
        sqlite.fill(agent, 50)
        capture = bench.source.capture(bench.map)
        assert capture is not None

        assert [] == list(bench.scratch.iterdir())
        bench.source.close()
        assert encoded(capture) == encoded(capture)
        capture.close()
        capture.close()


def test_the_agent_is_not_blocked_while_a_capture_is_read(bench: Bench) -> None:
    """The read transaction ends with the copy, in rollback mode too."""
    with sqlite.opened(bench.database, "delete") as agent:
        sqlite.fill(agent, 50)
        capture = bench.source.capture(bench.map)
        assert capture is not None
        agent.set_busy_timeout(0)

        agent.execute("INSERT INTO t(body) VALUES(1)")

        with capture:
            assert isinstance(encoded(capture), bytes)


def test_apsw_is_new_enough() -> None:
    """The library that reads agents' databases has the fix of the WAL-reset bug."""
    assert apsw.sqlite_lib_version() >= "3.51.3"
