"""An agent for the exec runtime: it notes what it is told, and never forgets.

Messages come as JSON lines on standard input; each is answered with an event, and with
`message.done` when its turn is over. Its whole state is one SQLite file, so Townkeeper
can bring it back anywhere.
"""

import json
import os
import sqlite3
import sys


def say(**event: object) -> None:
    """One JSON line on standard output is one event."""
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Takes notes until standard input ends."""
    notes = sqlite3.connect(os.environ["TOWNKEEPER_DATABASE"])
    notes.execute("pragma journal_mode = wal")
    # The id is the key: a message that is delivered twice is noted once.
    notes.execute("create table if not exists note (id text primary key, text text)")
    for line in sys.stdin:
        message = json.loads(line)
        with notes:
            row = (message["id"], message["text"])
            notes.execute("insert or ignore into note values (?, ?)", row)
        texts = [text for (text,) in notes.execute("select text from note")]
        say(event="noted", count=len(texts), first=texts[0])
        say(event="message.done", id=message["id"])


if __name__ == "__main__":
    main()
