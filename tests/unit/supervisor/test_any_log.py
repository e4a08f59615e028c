"""Whatever a writer does to its log, a save is what SQLite itself sees."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from pathlib import Path

import apsw
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support import sqlite
from tests.support.saves import Bench

STEPS = st.one_of(
    st.tuples(st.just("touch"), st.integers(1, 600), st.integers(1, 80)),
    st.tuples(st.just("add"), st.integers(1, 200), st.just(0)),
    st.tuples(st.just("drop"), st.integers(1, 600), st.integers(1, 300)),
    st.tuples(st.just("take back"), st.integers(1, 600), st.integers(50, 600)),
    st.tuples(
        st.sampled_from(["PASSIVE", "RESTART", "TRUNCATE", "VACUUM"]),
        st.just(0),
        st.just(0),
    ),
    st.tuples(st.just("limit"), st.sampled_from([-1, 0, 20_000]), st.just(0)),
    st.tuples(st.just("autocheckpoint"), st.sampled_from([10, 50, 1000]), st.just(0)),
    st.tuples(
        st.sampled_from(["save", "save", "save", "lose a capture", "restart"]),
        st.just(0),
        st.just(0),
    ),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps=st.lists(STEPS, min_size=5, max_size=40), pinned=st.booleans())
def test_every_save_is_what_sqlite_sees(
    steps: list[tuple[str, int, int]], pinned: bool
) -> None:
    """Equal byte by byte, however the changed pages were found."""
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), pin_bytes_min=0 if pinned else 1 << 40)
        with sqlite.opened(bench.database) as agent:
            agent.pragma("cache_size", 10)
            sqlite.fill(agent, 300)
            for step in steps:
                take(bench, agent, *step)
            bench.save()
            bench.assert_saved()
            bench.source.close()


def take(bench: Bench, agent: apsw.Connection, what: str, one: int, two: int) -> None:
    match what:
        case "save":
            if bench.save() is not None:
                bench.assert_saved()
        case "lose a capture":
            capture = bench.source.capture(bench.map)
            if capture is not None:
                capture.close()
        case "restart":
            bench.source.close()
            bench.restart()
        case _:
            write(agent, what, one, two)


def write(agent: apsw.Connection, what: str, one: int, two: int) -> None:
    change = "UPDATE t SET body = randomblob(500) WHERE id BETWEEN ? AND ?"
    match what:
        case "touch":
            agent.execute(change, (one, one + two))
        case "add":
            sqlite.fill(agent, one)
        case "drop":
            agent.execute("DELETE FROM t WHERE id BETWEEN ? AND ?", (one, one + two))
        case "take back":
            agent.execute("BEGIN")
            agent.execute(change, (one, one + two))
            agent.execute("ROLLBACK")
        case "limit":
            agent.execute(f"PRAGMA journal_size_limit={one}").fetchall()
        case "autocheckpoint":
            agent.pragma("wal_autocheckpoint", one)
        case "VACUUM":
            agent.execute("VACUUM")
        case mode:
            # A reader that stands on the log keeps it from being begun anew: busy.
            agent.set_busy_timeout(0)
            with suppress(apsw.BusyError):
                agent.execute(f"PRAGMA wal_checkpoint({mode})").fetchall()
