"""Saves of a live database: complete, consistent, and none when nothing changed."""

from __future__ import annotations

import os
from pathlib import Path

import apsw
import pytest

from services.segments.layout import Kind
from services.segments.page_map import PageMap
from services.supervisor.capture import StateMoved
from services.supervisor.live_source import LiveSource
from tests.support import sqlite
from tests.support.saves import Bench, encoded


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
            bench.source = LiveSource(bench.database, bench.scratch)

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

    def test_side_files_made_anew(self, bench: Bench) -> None:
        """Commits in another log than the one that is held open are seen as well."""
        with sqlite.opened(bench.database) as agent:
            sqlite.fill(agent, 50)
            bench.save()
            agent.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        for part in ("-wal", "-shm"):
            bench.database.with_name(f"agent.db{part}").unlink()
        sqlite.left_by_the_dead(
            bench.database.parent,
            "c = apsw.Connection('agent.db')\n"
            "c.execute('UPDATE t SET body = 1 WHERE id = 7')",
        )

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


def test_a_copy_that_was_given_up_halfway(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer came between its steps: the next try begins with nothing."""
    with sqlite.opened(bench.database, "delete") as agent:
        sqlite.fill(agent, 50)
        bench.save()
        agent.execute("UPDATE t SET body = 1 WHERE id = 7")

        def half(source: apsw.Connection, path: Path, in_steps_of: int) -> None:
            monkeypatch.undo()
            path.write_bytes(b"half a copy " * 1000)
            agent.execute("UPDATE t SET body = 2 WHERE id = 7")

        monkeypatch.setattr("services.supervisor.backup_source._back_up", half)

        assert bench.save() is not None
        bench.assert_saved()


def test_captures_leave_no_scratch_behind(bench: Bench) -> None:
    """Names are gone at once, space when the capture is closed; a delta outlives the
    database that it was read from."""
    with sqlite.opened(bench.database) as agent:
        sqlite.fill(agent, 50)
        bench.save()
        agent.execute("UPDATE t SET body = randomblob(3) WHERE id = 7")
        capture = bench.source.capture(bench.map)
        assert capture is not None

        assert [] == list(bench.scratch.iterdir())
        bench.source.close()
        assert encoded(capture) == encoded(capture)
        capture.close()
        capture.close()


def test_a_base_is_not_read_after_its_database_is_closed(bench: Bench) -> None:
    """The descriptors that it reads from may be another file's by then."""
    with sqlite.opened(bench.database) as agent:
        sqlite.fill(agent, 50)
        capture = bench.source.capture(bench.map)
        assert capture is not None
        bench.source.close()

        with pytest.raises(StateMoved):
            encoded(capture)
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
