"""What the database of a `diary_agent` says, read from outside."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import apsw

PROGRAM = Path(__file__).with_name("diary_agent.py")


def command(*options: str) -> list[str]:
    """How the agent is run; without site packages, it starts the faster."""
    return [sys.executable, "-S", "-E", str(PROGRAM), *options]


@dataclass(frozen=True, slots=True)
class Entry:
    """One message as the agent has it."""

    id: str
    text: str
    answer: str

    @property
    def answered(self) -> bool:
        return self.answer == f"heard: {self.text}"


@dataclass(frozen=True, slots=True)
class Diary:
    """All that the agent has ever written."""

    entries: tuple[Entry, ...]
    written: dict[int, int]  # tick → the pid that wrote it, in order
    last_words: int

    @property
    def ticks(self) -> tuple[int, ...]:
        return tuple(self.written)

    @property
    def writers(self) -> tuple[int, ...]:
        """The pids that ticked, in order."""
        return tuple(dict.fromkeys(self.written.values()))

    @property
    def ids(self) -> list[str]:
        return [entry.id for entry in self.entries]

    @property
    def unanswered(self) -> list[str]:
        return [entry.id for entry in self.entries if not entry.answered]

    @property
    def gaps(self) -> list[int]:
        """Ticks that are missing: 1, 2, 3 … up to the last."""
        return sorted(set(range(1, len(self.ticks) + 1)) - set(self.ticks))


EMPTY = Diary((), {}, 0)


def read_diary(path: Path) -> Diary:
    """A live database or a copy, as one transaction sees it."""
    flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_NOFOLLOW
    connection = apsw.Connection(str(path), flags=flags)
    try:
        connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        connection.set_busy_timeout(5000)
        return _read(connection)
    finally:
        connection.close()


def parse_diary(content: bytes) -> Diary:
    """A database that was downloaded; SQLite finds nothing wrong with it."""
    connection = apsw.Connection(":memory:")
    try:
        # A copy in memory has no log beside it: the header must not ask for one.
        connection.deserialize("main", content[:18] + b"\1\1" + content[20:])
        assert "ok" == connection.pragma("integrity_check")
        return _read(connection)
    finally:
        connection.close()


def _read(connection: apsw.Connection) -> Diary:
    connection.execute("begin")
    tables = {name for (name,) in connection.execute("select name from sqlite_schema")}
    if "last_words" not in tables:
        return EMPTY
    messages = connection.execute("select id, text, answer from message order by place")
    entries = tuple(Entry(str(i), str(t), str(a)) for i, t, a in messages)
    ticks = connection.execute("select number, pid from tick order by number")
    written = {int(str(number)): int(str(pid)) for number, pid in ticks}
    ((words,),) = connection.execute("select count(*) from last_words")
    return Diary(entries, written, int(str(words)))


def read_witness(path: Path) -> list[tuple[int, int]]:
    """Pid and number of each tick whose commit had returned."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [(int(line.split()[0]), int(line.split()[1])) for line in lines]
