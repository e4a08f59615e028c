"""What a data directory says about itself."""

import json
from pathlib import Path

import pytest

from services.cli.layout import DataDir, Endpoints, Marking
from services.cli.problems import Problem

MARKING = Marking("town-1", "embedded")


@pytest.fixture
def data(tmp_path: Path) -> DataDir:
    return DataDir.at(tmp_path / "data")


def test_an_unused_directory_may_become_anybodys(data: DataDir) -> None:
    """A directory that is not there yet is usable and marked by nobody."""
    data.check_usable()
    data.check_marking(MARKING)

    assert data.marking() is None
    assert not data.root.exists()


def test_a_created_directory_is_private(data: DataDir) -> None:
    """Keys and sessions are for their owner only."""
    data.create(MARKING)

    folders = [path for path in data.root.rglob("*") if path.is_dir()]
    assert {0o700} == {path.stat().st_mode & 0o777 for path in (data.root, *folders)}
    assert MARKING == data.marking()


@pytest.mark.parametrize(
    ("wanted", "word"),
    [
        pytest.param(Marking("town-2", "embedded"), "town 'town-1'", id="town"),
        pytest.param(Marking("town-1", "prod"), "environment", id="environment"),
    ],
)
def test_another_marking_is_refused(data: DataDir, wanted: Marking, word: str) -> None:
    """A directory serves the town and environment that it was made for."""
    data.create(MARKING)

    with pytest.raises(Problem, match=word):
        data.check_marking(wanted)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(json.dumps({"layout": 2}), id="newer layout"),
        pytest.param("[]", id="no object"),
        pytest.param("0.0.1", id="a bare version"),
        pytest.param("\x00\x01", id="no text"),
    ],
)
def test_a_directory_of_another_version_is_refused(data: DataDir, content: str) -> None:
    """What this version did not write it does not use."""
    data.create(MARKING)
    (data.plane / "version").write_text(content)

    with pytest.raises(Problem, match="cannot"):
        data.check_marking(MARKING)


def test_a_file_in_the_way_is_refused(tmp_path: Path) -> None:
    """A data directory below a file cannot be made; say so before trying."""
    (tmp_path / "file").write_text("")

    with pytest.raises(Problem, match="is not a directory"):
        DataDir.at(tmp_path / "file" / "data").check_usable()


def test_endpoints_are_there_while_the_plane_is(data: DataDir) -> None:
    """Other commands find a running plane, and none after it ended."""
    data.create(MARKING)
    endpoints = Endpoints("town-1", "http://h:1", "h:2", "h:3", "h:4")

    assert data.endpoints() is None
    data.publish(endpoints)
    assert endpoints == data.endpoints()
    data.withdraw()
    assert data.endpoints() is None
