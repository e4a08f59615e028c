"""Databases that their writers left in a bad way, and what is no database at all."""

from __future__ import annotations

import os

import pytest

from services.chassis.errors import Reason, ServiceError
from services.segments.layout import Kind
from services.segments.page_map import PageMap
from services.supervisor.live_source import LiveSource
from tests.support import sqlite
from tests.support.saves import Bench


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
        source = LiveSource(link / bench.database.name, bench.scratch)

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
        second = LiveSource(bench.database, bench.scratch)

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
