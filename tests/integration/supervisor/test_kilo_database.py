"""Kilo's database, asked and corrected through SQLite; its schema as 7.7 makes it."""

import json
import shutil
from contextlib import closing
from pathlib import Path

import apsw
import pytest

from services.chassis.errors import Reason, ServiceError
from services.supervisor.kilo.database import (
    find_message,
    last_message_id,
    move_session,
)
from services.supervisor.kilo.ids import message_id_for
from services.supervisor.runtime import Stored

pytestmark = pytest.mark.integration

SESSION = "ses_1"
NOW_MS = 1_795_442_259_578


@pytest.fixture
def database(tmp_path):
    path = tmp_path / "kilo.db"
    with closing(apsw.Connection(str(path))) as connection:
        connection.execute("pragma journal_mode = wal")
        connection.execute(
            "create table session (id text primary key, directory text);"
            "create table project (id text primary key, worktree text);"
            "create table project_directory (project_id text, directory text);"
            "create table message (id text primary key, session_id text,"
            " time_created integer, data text)"
        )
    return path


def store(database, message_id, at, session=SESSION, **info):
    with closing(apsw.Connection(str(database))) as connection:
        connection.execute(
            "insert into message values (?, ?, ?, ?)",
            (message_id, session, at, json.dumps(info)),
        )


def rows(database, statement):
    with closing(apsw.Connection(str(database))) as connection:
        return connection.execute(statement).fetchall()


def whole(parent):
    return {"parentID": parent, "finish": "stop", "time": {"completed": 1}}


def test_a_message_is_found_by_its_inbox_id(database):
    """Whenever it was stored, with the answers that name it and no others."""
    first, second = (message_id_for(name, NOW_MS, None) for name in ("m1", "m2"))
    store(database, first, NOW_MS, role="user")
    store(database, "msg_a", NOW_MS, **whole(first))
    store(database, second, NOW_MS + 10, role="user")
    store(database, "msg_b", NOW_MS + 11, parentID=second, time={})

    found = [find_message(database, SESSION, name) for name in ("m1", "m2", "m3")]

    assert [Stored.ANSWERED, Stored.UNFINISHED, Stored.ABSENT] == [
        one.stored for one in found
    ]
    assert [first, second, None] == [one.message_id for one in found]


def test_a_message_of_another_session_is_not_found(database):
    """A forked session holds copies of its parent's."""
    store(database, message_id_for("m1", NOW_MS, None), NOW_MS, session="ses_2")

    assert Stored.ABSENT is find_message(database, SESSION, "m1").stored


def test_the_newest_message_is_the_last_by_time(database):
    """Ids of another clock do not matter."""
    assert last_message_id(database, SESSION) is None
    store(database, "msg_b", 1)
    store(database, "msg_a", 2)

    assert "msg_a" == last_message_id(database, SESSION)


def test_reading_leaves_the_files_as_they_are(database, tmp_path):
    """No checkpoint of what a killed Kilo left in its WAL, though nobody else has it
    open."""
    with closing(apsw.Connection(str(database))) as kilo:
        kilo.execute("insert into message values ('msg_a', 'ses_1', 1, '{}')")
        left = [tmp_path / "left.db", tmp_path / "left.db-wal"]
        for path in left:
            shutil.copy(database.with_name(path.name.replace("left", "kilo")), path)
    before = [path.read_bytes() for path in left]

    assert "msg_a" == last_message_id(left[0], SESSION)
    find_message(left[0], SESSION, "m1")

    assert before == [path.read_bytes() for path in left]


def test_a_session_moves_with_everything_below_it(database):
    """Its own folder and what lies in it; a neighbour's longer name is another's."""
    for statement in (
        "insert into session values ('ses_1', '/old/w'), ('ses_2', '/old/w/sub')",
        "insert into session values ('ses_3', '/old/www')",
        "insert into project values ('p', '/old/w')",
        "insert into project_directory values ('p', '/old/w')",
    ):
        rows(database, statement)

    moved = move_session(database, SESSION, Path("/new"))

    assert moved
    assert [("/new",), ("/new/sub",), ("/old/www",)] == rows(
        database, "select directory from session order by id"
    )
    assert [("/new",)] == rows(database, "select worktree from project")
    assert [("/new",)] == rows(database, "select directory from project_directory")
    assert not move_session(database, SESSION, Path("/new"))


@pytest.mark.parametrize(
    "schema",
    [
        pytest.param("create table other (x)", id="no session table"),
        pytest.param("create table session (id, directory)", id="no such session"),
    ],
)
def test_what_is_not_there_is_not_moved(tmp_path, schema):
    """Another version's schema, or a session of another database."""
    rows(tmp_path / "other.db", schema)

    assert not move_session(tmp_path / "other.db", SESSION, Path("/new"))


@pytest.mark.parametrize("spoil", ["rotten", "absent", "linked"])
def test_a_database_that_cannot_be_read_is_an_error(tmp_path, database, spoil):
    """Never "absent": that would deliver a message twice."""
    path = tmp_path / "spoiled.db"
    if spoil == "rotten":
        path.write_bytes(b"no database" * 1000)
    if spoil == "linked":
        path.symlink_to(database)

    with pytest.raises(ServiceError) as refused:
        find_message(path, SESSION, "m1")

    assert Reason.RUNTIME_UNREACHABLE is refused.value.reason
