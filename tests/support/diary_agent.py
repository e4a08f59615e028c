"""An exec agent to be hurt: it answers messages, and may write all the time.

Standard library only; run as `python diary_agent.py [options]`. Its database has
`message` (each id once, with its answer) and `tick` (1, 2, 3 … without a gap).
"""

from __future__ import annotations

import argparse
import json
import os
import select
import signal
import sqlite3
import subprocess
import sys
import time

SCHEMA = """
create table if not exists message (
    id text primary key, place integer, text text, answer text, given integer
);
create table if not exists tick (number integer primary key, pid integer);
create table if not exists last_words (number integer primary key, pid integer);
"""
# Unread by anybody, so that nobody but the agent's own tree keeps it alive.
SLEEPER = "import signal; signal.signal(15, signal.SIG_IGN); signal.pause()"


class Diary:
    """The database, and what the agent does with it."""

    def __init__(self, path: str, witness: str, notes: str) -> None:
        self._database = sqlite3.connect(path)
        self._database.execute("pragma journal_mode = wal")
        self._database.executescript(SCHEMA)
        self._witness = outside(witness)
        self._notes = outside(notes)

    def tick(self) -> None:
        """One commit more; the witness outside hears of it only when it is done."""
        with self._database:
            row = "insert into tick select coalesce(max(number), 0) + 1, ? from tick"
            self._database.execute(row, (os.getpid(),))
        ((number,),) = self._database.execute("select max(number) from tick")
        if self._witness >= 0:
            line = f"{os.getpid()} {number} {time.monotonic()}\n"
            os.write(self._witness, line.encode())

    def take(self, message: dict[str, str]) -> None:
        """Stores a message, if it is new, before it is answered; the notes outside hear
        of it only when that is done."""
        with self._database:
            stored = self._database.execute(
                "insert into message select ?, count(*) + 1, ?, '', 0 from message"
                " where true on conflict (id) do nothing",
                (message["id"], message["text"]),
            )
            given = "update message set given = given + 1 where id = ?"
            self._database.execute(given, (message["id"],))
        if stored.rowcount and self._notes >= 0:
            os.write(self._notes, f"{os.getpid()} {message['id']}\n".encode())

    def answer(self, message: dict[str, str]) -> None:
        with self._database:
            answer = "update message set answer = 'heard: ' || text where id = ?"
            self._database.execute(answer, (message["id"],))

    def say_farewell(self) -> None:
        """The hardest thing to save: committed when the end has already begun."""
        with self._database:
            row = "insert into last_words select count(*) + 1, ? from last_words"
            self._database.execute(row, (os.getpid(),))


def outside(path: str) -> int:
    """A file to append to, which no death of the agent takes along; -1 without one."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
    return os.open(path, flags) if path else -1


def main() -> None:
    """Lives until standard input ends, or SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tick-s", type=float, help="commit so often")
    parser.add_argument("--think-s", type=float, default=0.0, help="think so long")
    parser.add_argument("--witness", default="", help="a file that hears of each tick")
    parser.add_argument("--notes", default="", help="a file that hears of new messages")
    parser.add_argument("--last-words", action="store_true", help="commit at SIGTERM")
    parser.add_argument("--stubborn", action="store_true", help="never mind EOF")
    parser.add_argument("--deaf", action="store_true", help="never mind SIGTERM")
    options = parser.parse_args()
    database = os.environ["TOWNKEEPER_DATABASE"]
    diary = Diary(database, options.witness, options.notes)

    def on_term(*_: object) -> None:
        if options.last_words:
            diary.say_farewell()
        sys.exit(0)

    signal.signal(signal.SIGTERM, signal.SIG_IGN if options.deaf else on_term)
    if options.stubborn:
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        subprocess.Popen([sys.executable, "-c", SLEEPER], start_new_session=True)
    live(diary, options)


def live(diary: Diary, options: argparse.Namespace) -> None:
    """Messages as they come, ticks between them."""
    begun, listening = b"", True
    while True:
        ready = select.select([0] if listening else [], [], [], options.tick_s)[0]
        if options.tick_s is not None:
            diary.tick()
        if not ready:
            continue
        data = os.read(0, 65536)
        if not data and not options.stubborn:
            return
        listening = bool(data)
        *lines, begun = (begun + data).split(b"\n")
        for line in lines:
            message = json.loads(line)
            diary.take(message)
            select.select([], [], [], options.think_s)
            diary.answer(message)
            say(event="message.done", id=message["id"])


def say(**event: object) -> None:
    """One JSON line on standard output is one event."""
    try:
        os.write(1, json.dumps(event).encode() + b"\n")
    except BrokenPipeError:
        return  # an orphan talks to nobody


if __name__ == "__main__":
    main()
