"""An agent's folders are its own, and nothing that may be the only copy is lost."""

from pathlib import Path

import pytest

from services.supervisor.places import Lineage, Places


@pytest.fixture
def places(tmp_path: Path) -> Places:
    places = Places(tmp_path / "agents/a")
    places.prepare()
    return places


def test_only_the_owner_may_enter(places: Places) -> None:
    """Home, tmp and scratch are private."""
    modes = {path.stat().st_mode & 0o777 for path in (places.home, places.tmpdir)}

    assert {0o700} == modes


def test_a_record_reads_back(places: Places) -> None:
    """What the database descends from survives a restart."""
    lineage = Lineage(7, 3, "ses_1", "kilo", 4)

    places.record(lineage)

    assert lineage == places.lineage()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": 2}', '{"version": 1}'])
def test_an_unreadable_record_is_none(places: Places, text: str) -> None:
    """A record that cannot be understood costs a full save, not the start."""
    (places.root / "lineage.json").write_text(text)

    assert places.lineage() is None


def test_setting_aside_keeps_everything(places: Places) -> None:
    """A database that must not be used is moved with its side files, numbered."""
    database = places.home / "agent.db"
    for _ in range(2):
        database.write_bytes(b"main")
        (places.home / "agent.db-wal").write_bytes(b"wal")
        places.set_aside(database, "fenced")

    shelves = sorted(path.name for path in (places.root / "aside").iterdir())
    assert ["0001-fenced", "0002-fenced"] == shelves
    assert not database.exists()
    assert b"wal" == (places.root / "aside/0002-fenced/agent.db-wal").read_bytes()


def test_half_a_replacement_goes(places: Places) -> None:
    """What a crash left of a file, or of a shelf, that was to appear whole."""
    (places.root / "pages.map.new").write_bytes(b"half")
    (places.root / "aside.new").mkdir()
    (places.root / "aside.new" / "agent.db").write_bytes(b"a link")

    places.prepare()

    assert [] == list(places.root.glob("*.new"))
