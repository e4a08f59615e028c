"""What the database of a `diary_agent` says, read from outside."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import apsw

# A line of the witness, and more.
_LINES_BYTES: Final = 200
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
    given: int  # how often the agent was told it

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
    columns = "id, text, answer, given"
    messages = connection.execute(f"select {columns} from message order by place")
    entries = tuple(
        Entry(str(i), str(t), str(a), int(str(given))) for i, t, a, given in messages
    )
    ticks = connection.execute("select number, pid from tick order by number")
    written = {int(str(number)): int(str(pid)) for number, pid in ticks}
    ((words,),) = connection.execute("select count(*) from last_words")
    return Diary(entries, written, int(str(words)))


@dataclass(frozen=True, slots=True)
class Tick:
    """A commit that had returned, and when."""

    pid: int
    number: int
    committed_at_s: float  # of the monotonic clock, which all processes share

    @staticmethod
    def parse(line: bytes) -> Tick:
        pid, number, committed_at_s = line.split()
        return Tick(int(pid), int(number), float(committed_at_s))


@dataclass
class Witness:
    """The file in which the agent notes each tick when its commit has returned."""

    path: Path
    _read_bytes: int = field(default=0, init=False)

    def all(self) -> list[Tick]:
        return list(map(Tick.parse, self._lines(0)))

    def news(self) -> list[Tick]:
        """What was added since this was asked before."""
        lines = self._lines(self._read_bytes)
        self._read_bytes += sum(map(len, lines)) + len(lines)
        return list(map(Tick.parse, lines))

    def first_news(self) -> Tick | None:
        """The first of those, without taking it."""
        lines = self._lines(self._read_bytes)
        return Tick.parse(lines[0]) if lines else None

    def last(self) -> Tick | None:
        size_bytes = self.path.stat().st_size if self.path.exists() else 0
        lines = self._lines(max(0, size_bytes - _LINES_BYTES))
        return Tick.parse(lines[-1]) if lines else None

    def _lines(self, start: int) -> list[bytes]:
        """Those that are whole, from a place in the file on."""
        if not self.path.exists():
            return []
        with self.path.open("rb") as file:
            file.seek(start)
            return file.read().split(b"\n")[:-1]
