"""Whatever an agent does to its database, the saves restore what SQLite reads."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import apsw
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.chassis.errors import Reason, ServiceError
from services.segments.encode import SegmentEncoder
from services.segments.layout import Kind
from services.segments.prefix import PrefixCache
from tests.support import sqlite
from tests.support.saves import Bench

ROUNDS: Final = int(os.environ.get("ROUNDS") or 15)
SEED: Final = int(os.environ.get("SEED") or 1)

Action = Callable[[apsw.Connection, int], None]


def insert(agent: apsw.Connection, amount: int) -> None:
    sqlite.fill(agent, amount)


def update(agent: apsw.Connection, amount: int) -> None:
    agent.execute(
        "UPDATE t SET body = randomblob(200) WHERE id % ? = 0", (amount % 50 + 2,)
    )


def delete(agent: apsw.Connection, amount: int) -> None:
    agent.execute("DELETE FROM t WHERE id % ? = 0", (amount % 5 + 1,))


def large(agent: apsw.Connection, amount: int) -> None:
    agent.execute("INSERT INTO t(body) VALUES(randomblob(?))", (amount * 1500,))


def vacuum(agent: apsw.Connection, amount: int) -> None:
    agent.execute("VACUUM")


def index(agent: apsw.Connection, amount: int) -> None:
    agent.execute("CREATE INDEX IF NOT EXISTS i ON t(body)")


def drop(agent: apsw.Connection, amount: int) -> None:
    agent.execute("DROP INDEX IF EXISTS i")
    agent.execute("CREATE TABLE IF NOT EXISTS u AS SELECT * FROM t")
    agent.execute("DROP TABLE u")


def roll_back(agent: apsw.Connection, amount: int) -> None:
    agent.execute("BEGIN")
    agent.execute("UPDATE t SET body = randomblob(900)")
    agent.execute("ROLLBACK")


def checkpoint(agent: apsw.Connection, amount: int) -> None:
    mode = ["PASSIVE", "FULL", "RESTART", "TRUNCATE"][amount % 4]
    agent.pragma(f"wal_checkpoint({mode})")


ACTIONS: list[Action] = [
    insert,
    update,
    delete,
    large,
    vacuum,
    index,
    drop,
    roll_back,
    checkpoint,
]
HISTORY = st.lists(
    st.tuples(st.sampled_from(ACTIONS), st.integers(1, 200), st.booleans()),
    min_size=1,
    max_size=14,
)


@contextmanager
def new_bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    bench = Bench(tmp_path_factory.mktemp("history"))
    try:
        yield bench
    finally:
        bench.source.close()


@pytest.mark.timeout(120)
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    history=HISTORY,
    mode=st.sampled_from(["wal", "delete"]),
    page_size=st.sampled_from([512, 1024, 4096, 65_536]),
    auto_vacuum=st.sampled_from([0, 1, 2]),
)
def test_every_save_restores_to_what_sqlite_reads(
    tmp_path_factory: pytest.TempPathFactory,
    history: list[tuple[Action, int, bool]],
    mode: str,
    page_size: int,
    auto_vacuum: int,
) -> None:
    """Inserts, updates, large rows, VACUUM, drops, rollbacks, checkpoints; with saves
    in between: base and deltas equal SQLite's own reading, and are sound."""
    with new_bench(tmp_path_factory) as bench:
        agent = apsw.Connection(str(bench.database))
        agent.pragma("auto_vacuum", auto_vacuum)
        agent.close()
        with sqlite.opened(bench.database, mode, page_size) as agent:
            sqlite.fill(agent, 20)
            for action, amount, save in history:
                action(agent, amount)
                if save:
                    bench.save()
                    bench.assert_saved()
            bench.save()
            bench.assert_saved()
            assert not bench.source.changed()


def test_a_chain_with_prefixes_restores_the_same(tmp_path: Path) -> None:
    """Hot pages, rewritten by each turn, cost little and come back right."""
    bench, cache = Bench(tmp_path), PrefixCache()
    sizes = []
    with sqlite.opened(bench.database) as agent:
        sqlite.fill(agent, 300)
        for turn in range(12):
            agent.execute("UPDATE t SET body = body || ? WHERE id % 90 = 0", (turn,))
            capture = bench.source.capture(bench.map)
            assert capture is not None
            delta = capture.header.kind is Kind.DELTA
            source = map(cache.offer, capture.blocks()) if delta else capture.blocks()
            encoder = SegmentEncoder(
                capture.header,
                source,
                capture.fingerprint,
                prefix=cache.source if delta else None,
            )
            bench.chain.append(b"".join(encoder))
            sizes.append(len(bench.chain[-1]))
            capture.commit()
            cache.commit(capture.header.page_count)
            capture.close()
    bench.assert_saved()
    bench.source.close()

    assert sizes[-1] < sizes[1] / 4


WRITER: Final = """
import apsw, os, random, sys
path, seed, mode = sys.argv[1], int(sys.argv[2]), sys.argv[3]
pick = random.Random(seed)
c = apsw.Connection(path)
c.set_busy_timeout(10_000)
c.pragma("journal_mode", mode)
c.pragma("wal_autocheckpoint", pick.choice([50, 400, 1000]))
while True:
    try:
        kind = pick.random()
        if kind < 0.04:
            c.execute("VACUUM")
        elif kind < 0.10:
            how = pick.choice(["FULL", "RESTART", "TRUNCATE"])
            c.pragma("wal_checkpoint(%s)" % how)
        elif kind < 0.14:
            c.pragma("journal_size_limit", pick.choice([0, 100_000, -1]))
        else:
            c.execute("BEGIN IMMEDIATE")
            for _ in range(pick.choice([1, 3, 10, 200])):
                c.execute("INSERT OR REPLACE INTO t VALUES(?, randomblob(?))",
                          (pick.randrange(2000), pick.choice([50, 700, 9000])))
            if pick.random() < 0.1:
                c.execute("DELETE FROM t WHERE id < 1500")
            if pick.random() < 0.02:
                os.kill(os.getpid(), 9)
            c.execute(pick.choice(["COMMIT", "COMMIT", "COMMIT", "ROLLBACK"]))
    except apsw.BusyError:
        if c.in_transaction:
            c.execute("ROLLBACK")
"""


class Storm:
    """Writers that never rest, and die now and then in the middle of a transaction."""

    def __init__(self, database: Path, mode: str, writers: int) -> None:
        self._database = database
        self._mode = mode
        self._seed = SEED * 1000
        self._writers = [self._start() for _ in range(writers)]

    def _start(self) -> subprocess.Popen[bytes]:
        self._seed += 1
        arguments = [str(self._database), str(self._seed), self._mode]
        return subprocess.Popen([sys.executable, "-c", WRITER, *arguments])

    def keep_up(self) -> None:
        for at, writer in enumerate(self._writers):
            if writer.poll() is not None:
                assert writer.returncode == -9
                self._writers[at] = self._start()

    def end(self) -> None:
        for writer in self._writers:
            writer.kill()
            writer.wait(10)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_a_storm_of_writers(tmp_path: Path, mode: str) -> None:
    """While other processes write, checkpoint, VACUUM and die, every save is sound and
    continues the one before; after it, the last equals what SQLite reads."""
    bench = Bench(tmp_path, busy_ms=10_000)
    with sqlite.opened(bench.database, mode) as agent:
        agent.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, body)")
    storm = Storm(bench.database, mode, writers=2)
    try:
        saved = 0
        while saved < ROUNDS:
            storm.keep_up()
            saved += _save(bench)
            assert sqlite.soundness(bench.restored()) == "ok"
            if len(bench.chain) > 16:
                bench.save(base=True)
    finally:
        storm.end()
    bench.save()
    bench.assert_saved()
    assert not bench.source.changed()
    bench.source.close()


def _save(bench: Bench) -> bool:
    try:
        return bench.save() is not None
    except ServiceError as refused:
        # In rollback mode a writer may keep others out for as long as it likes.
        if refused.reason is not Reason.SERVICE_UNAVAILABLE:
            raise
        return False
