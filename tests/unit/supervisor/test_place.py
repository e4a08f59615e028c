"""A restored database gets its place only when it is sound and nobody uses the old."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw
import pytest

from services.chassis.errors import Reason, ServiceError
from services.supervisor import place as place_module
from services.supervisor.place import find_user, place, prove
from tests.support import sqlite

SIDES = ["agent.db-wal", "agent.db-shm", "agent.db-journal"]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


@pytest.fixture
def built(tmp_path: Path) -> Path:
    return made(tmp_path / "built")


def made(path: Path, journal_mode: str = "wal", rows: int = 50) -> Path:
    with sqlite.opened(path, journal_mode) as connection:
        sqlite.fill(connection, rows)
        connection.pragma("wal_checkpoint(TRUNCATE)")
    return path


@contextmanager
def program_with(path: Path) -> Iterator[int]:
    """A process that has the file open."""
    code = "import sys; f = open(sys.argv[1]); print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid
        assert process.stdin is not None
        process.stdin.close()
        process.wait(10)


class TestPlace:
    def test_it_stands_there_unchanged(self, home: Path, built: Path) -> None:
        """Byte for byte what was proven, in folders that were made for it."""
        content = built.read_bytes()
        database = home / "data" / "kilo" / "agent.db"

        place(built, database, root=home)

        assert content == database.read_bytes()
        assert [database] == list(database.parent.iterdir())
        assert not built.exists()
        assert 0o700 == database.parent.stat().st_mode & 0o777

    @pytest.mark.parametrize("mode", ["wal", "delete"])
    def test_what_lay_there_is_gone_with_its_log(
        self, tmp_path: Path, home: Path, mode: str
    ) -> None:
        """An old log beside a new file would be replayed into it."""
        database = made(home / "agent.db", rows=5)
        for name in SIDES:
            (home / name).write_bytes(b"left over")
        built = made(tmp_path / "built", mode)
        content = built.read_bytes()

        place(built, database)

        assert [database] == list(home.iterdir())
        assert content == database.read_bytes()
        assert sqlite.soundness(database) == "ok"

    def test_it_belongs_to_the_agent(self, home: Path, built: Path) -> None:
        """An agent under its own uid must be able to write it, and beside it."""
        owner = (4711, 4712) if os.getuid() == 0 else (os.getuid(), os.getgid())
        database = home / "data" / "agent.db"

        place(built, database, root=home, owner=owner)

        for path in (database, database.parent):
            found = path.stat()
            assert owner == (found.st_uid, found.st_gid)

    def test_no_crash_leaves_a_mixture(
        self, home: Path, built: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Whatever step is the last one: a log never stands beside a file that is not
        its own, and the old file never without its log."""
        database = home / "agent.db"
        states = []

        def seen(step: Callable[..., None]) -> Callable[..., None]:
            def recorded(*args: object, **kwargs: object) -> None:
                step(*args, **kwargs)
                states.append({path.name for path in home.iterdir()})

            return recorded

        made(database)
        (home / SIDES[0]).write_bytes(b"left over")
        monkeypatch.setattr(os, "unlink", seen(os.unlink))
        monkeypatch.setattr(os, "rename", seen(os.rename))
        place(built, database)

        assert [{SIDES[0]}, set()] == states[:2]
        assert {"agent.db"} == states[-1]

    def test_it_is_durable_before_the_old_one_goes(
        self, home: Path, built: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Then a power cut at any step leaves one of the two, whole."""
        database = made(home / "agent.db")
        inode, steps = built.stat().st_ino, list[str]()
        fsync, unlink = os.fsync, os.unlink

        def syncing(descriptor: int) -> None:
            fsync(descriptor)
            if os.fstat(descriptor).st_ino == inode:
                steps.append("synced")

        def removing(path: str, *, dir_fd: int | None = None) -> None:
            unlink(path, dir_fd=dir_fd)
            steps.append(f"removed {path}")

        monkeypatch.setattr(os, "fsync", syncing)
        monkeypatch.setattr(os, "unlink", removing)
        place(built, database)

        assert ["synced", "removed agent.db"] == steps

    def test_a_disk_that_does_not_keep_it(
        self, home: Path, built: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What it failed to sync takes no place: the old database stays."""
        database = made(home / "agent.db", rows=5)
        content = database.read_bytes()

        def failing(_: int) -> None:
            raise OSError(errno.EIO, "cannot write")

        monkeypatch.setattr(os, "fsync", failing)
        with pytest.raises(OSError, match="cannot write"):
            place(built, database)

        assert content == database.read_bytes()


class TestRefusals:
    def test_a_process_has_the_old_one_open(self, home: Path, built: Path) -> None:
        """It would go on writing into a file that nobody reads any more."""
        database = made(home / "agent.db", rows=5)

        with program_with(database) as pid, pytest.raises(ServiceError) as refused:
            place(built, database)

        assert Reason.LEASE_HELD is refused.value.reason
        assert str(pid) == refused.value.metadata["pid"]
        assert sqlite.soundness(database) == "ok"
        place(built, database)

    def test_a_process_has_only_the_log_open(self, home: Path, built: Path) -> None:
        """The main file may be gone while its writer is not."""
        (home / SIDES[0]).write_bytes(b"log")

        with (
            program_with(home / SIDES[0]),
            pytest.raises(ServiceError, match="stop it first"),
        ):
            place(built, home / "agent.db")

        assert (home / SIDES[0]).exists()

    def test_we_have_it_open_ourselves(self, home: Path, built: Path) -> None:
        """Our own save of the old one must end first."""
        database = made(home / "agent.db", rows=5)

        with (
            sqlite.opened(database),
            pytest.raises(ServiceError, match=f"process {os.getpid()}"),
        ):
            place(built, database)

    @pytest.mark.parametrize("name", ["agent.db", *SIDES])
    def test_a_link_in_its_place(
        self, tmp_path: Path, home: Path, built: Path, name: str
    ) -> None:
        """An agent could point it at anything; it is not even removed."""
        precious = tmp_path / "precious"
        precious.write_bytes(b"precious")
        (home / name).symlink_to(precious)

        with pytest.raises(ServiceError) as refused:
            place(built, home / "agent.db")

        assert Reason.FIELD_INVALID is refused.value.reason
        assert precious.read_bytes() == b"precious"
        assert (home / name).is_symlink()

    @pytest.mark.parametrize("target", ["elsewhere", "nowhere"])
    def test_a_link_on_the_way(
        self, tmp_path: Path, home: Path, built: Path, target: str
    ) -> None:
        """A folder below the home may be a link to another agent's."""
        (tmp_path / "elsewhere").mkdir()
        (home / "data").symlink_to(tmp_path / target)

        with pytest.raises(ServiceError, match="data is a link"):
            place(built, home / "data" / "agent.db", root=home)

        assert [] == list((tmp_path / "elsewhere").iterdir())
        assert built.exists()

    def test_a_link_above_the_root_is_followed(
        self, tmp_path: Path, home: Path, built: Path
    ) -> None:
        """The data directory is the operator's: it may be a link."""
        (tmp_path / "link").symlink_to(home)

        place(built, tmp_path / "link" / "agent.db", root=tmp_path / "link")

        assert (home / "agent.db").exists()

    def test_bytes_that_are_no_database(self, home: Path, built: Path) -> None:
        """Opaque bytes do not get where a session belongs."""
        built.write_bytes(b"no database " * 1000)

        with pytest.raises(ServiceError) as refused:
            place(built, home / "agent.db")

        assert Reason.NOT_A_DATABASE is refused.value.reason
        assert [] == list(home.iterdir())

    def test_a_database_that_is_damaged(self, home: Path, built: Path) -> None:
        """Saved in good faith from a damaged file: found before an agent does."""
        raw = bytearray(built.read_bytes())
        raw[4096 * 3 : 4096 * 4] = bytes(4096)
        built.write_bytes(raw)

        with pytest.raises(ServiceError, match="take an older generation") as refused:
            place(built, home / "agent.db")

        assert Reason.SNAPSHOT_CORRUPT is refused.value.reason
        assert [] == list(home.iterdir())


class TestProve:
    @pytest.mark.parametrize("mode", ["wal", "delete"])
    def test_it_leaves_the_file_as_it_is(self, tmp_path: Path, mode: str) -> None:
        """Trying to write is undone to the last byte, and leaves nothing beside it."""
        database = made(tmp_path / "built", mode)
        content = database.read_bytes()

        prove(database)

        assert content == database.read_bytes()
        assert [database] == list(tmp_path.iterdir())

    def test_a_foreign_log_beside_it_is_not_believed(self, tmp_path: Path) -> None:
        """Only the file itself was proven: an old log is not replayed into it."""
        sqlite.left_by_the_dead(
            tmp_path,
            "c = apsw.Connection('built')\n"
            "c.execute('PRAGMA journal_mode=wal; CREATE TABLE t(a)').fetchall()",
        )
        database = tmp_path / "built"
        content = database.read_bytes()

        prove(database)

        assert content == database.read_bytes()
        assert [database] == list(tmp_path.iterdir())

    def test_one_that_can_only_be_read_is_refused(self, tmp_path: Path) -> None:
        """A file of a later format may only be read: no agent could work with it."""
        database = made(tmp_path / "built", "delete")
        raw = bytearray(database.read_bytes())
        raw[18] = 3  # the version that a writer must know
        database.write_bytes(raw)

        with pytest.raises(ServiceError, match="readonly"):
            prove(database)

    def test_a_large_one_is_checked_quickly(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The full check takes too long beyond a quarter of a GiB."""
        monkeypatch.setattr(place_module, "FULL_CHECK_BYTES_MAX", 0)
        database = made(tmp_path / "built")
        prove(database)
        raw = bytearray(database.read_bytes())
        raw[4096 * 3 : 4096 * 4] = bytes(4096)
        database.write_bytes(raw)

        with pytest.raises(ServiceError, match="quick_check says"):
            prove(database)

    @pytest.mark.parametrize(
        "statement",
        [
            "CREATE INDEX i ON t(body COLLATE own)",
            "CREATE INDEX i ON t(own(body))",
        ],
        ids=["collation", "function"],
    )
    def test_what_only_its_program_knows_is_no_damage(
        self, tmp_path: Path, statement: str
    ) -> None:
        """A program may define collations and functions that we do not have."""
        database = made(tmp_path / "built", "delete")
        connection = apsw.Connection(str(database))
        connection.create_collation("own", lambda a, b: (a > b) - (a < b))
        connection.create_scalar_function("own", lambda *_: 1, 1, deterministic=True)
        connection.execute(statement)
        connection.close()

        prove(database)


def test_nobody_uses_a_file_that_is_closed(tmp_path: Path) -> None:
    """The search finds who has it open, and nobody else."""
    path = tmp_path / "file"
    path.touch()
    identity = (path.stat().st_dev, path.stat().st_ino)

    assert find_user({identity}) is None
    with path.open():
        assert os.getpid() == find_user({identity})
