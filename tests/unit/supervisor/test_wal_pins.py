"""Read transactions that stay open between saves: what they spare, and when they go."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from services.supervisor import wal_source, wal_view
from services.supervisor.capture import Way
from services.supervisor.wal_view import View
from tests.support import sqlite
from tests.support.saves import Bench, checkpoint, saved, touch

ROWS = 2000


@pytest.fixture
def pinned(tmp_path: Path) -> Iterator[Bench]:
    """As for a large database: the last read transaction stays open."""
    folder = tmp_path / "pinned"
    folder.mkdir()
    bench = Bench(folder, pin_bytes_min=0)
    yield bench
    bench.source.close()


def test_a_burst_longer_than_a_log(pinned: Bench) -> None:
    """While a reader stands on a log, it is begun anew once at most."""
    with sqlite.opened(pinned.database) as agent:
        agent.pragma("wal_autocheckpoint", 100)
        sqlite.fill(agent, ROWS)
        pinned.save()
        for start in range(1, 40):
            touch(agent, *range(start, 400, 10))
        assert Way.TAIL is saved(pinned)  # all of it was in the main file
        for start in range(1, 40):
            touch(agent, *range(start, 400, 10))

        assert Way.LOG is saved(pinned)


def test_a_log_that_grew_long_is_let_go(
    pinned: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What happens between letting go and holding on is saved with the rest."""
    monkeypatch.setattr(wal_source, "PIN_FRAMES_MAX", 30)
    with sqlite.opened(pinned.database) as agent:
        sqlite.fill(agent, ROWS)
        pinned.save()
        touch(agent, *range(10, 800, 20))

        def write_meanwhile(view: View) -> bool:
            checkpoint(agent)
            touch(agent, 1900, 1950)
            return view.log_has_moved()

        monkeypatch.setattr(wal_source, "_began_anew", write_meanwhile)
        assert Way.LOG is pinned_save(pinned)
        touch(agent, 5)

        assert Way.LOG is saved(pinned)


def test_an_idle_agent_may_begin_its_log_anew(
    pinned: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long log is not kept for a reader that reads nothing."""
    monkeypatch.setattr(wal_source, "IDLE_FRAMES_MAX", 30)
    monkeypatch.setattr(wal_source, "IDLE_S", 0.0)
    with sqlite.opened(pinned.database) as agent:
        sqlite.fill(agent, ROWS)
        pinned.save()
        assert not pinned.source.changed()

        checkpoint(agent, "TRUNCATE")

        log = pinned.database.with_name("agent.db-wal")
        assert 0 == log.stat().st_size


def test_a_log_that_grows_while_a_save_waits_is_let_go(
    pinned: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that is away for a day must not cost the agent its disk."""
    monkeypatch.setattr(wal_source, "PIN_FRAMES_MAX", 30)
    with sqlite.opened(pinned.database) as agent:
        sqlite.fill(agent, ROWS)
        checkpoint(agent)
        pinned.save()
        touch(agent, 1)
        waiting = pinned.source.capture(pinned.map)
        assert waiting is not None
        touch(agent, *range(10, 800, 20))

        pinned.source.changed()
        checkpoint(agent, "TRUNCATE")

        assert 0 == pinned.database.with_name("agent.db-wal").stat().st_size
        waiting.close()
        touch(agent, 5)
        saved(pinned)


def test_on_request(pinned: Bench) -> None:
    """An agent that ends may want its log whole in the main file."""
    with sqlite.opened(pinned.database) as agent:
        sqlite.fill(agent, ROWS)
        pinned.save()
        touch(agent, 1)
        pinned.save()

        pinned.source.let_go()
        checkpoint(agent, "TRUNCATE")

        assert 0 == pinned.database.with_name("agent.db-wal").stat().st_size


def test_a_log_too_long_to_be_read_goes_to_the_reference(
    pinned: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which needs the connection that the pin may have; each save is made."""
    with sqlite.opened(pinned.database) as agent:
        sqlite.fill(agent, ROWS)
        pinned.save()
        monkeypatch.setattr(wal_view, "FRAMES_MAX", 0)
        for row in (1, 2, 3):
            touch(agent, row)
            assert Way.BACKUP is saved(pinned)

        monkeypatch.undo()
        touch(agent, 4)
        saved(pinned)


def pinned_save(bench: Bench) -> Way:
    """A save after which the agent goes on writing at once."""
    assert bench.save() is not None
    assert bench.source.changed()
    return bench.source.reading.way
