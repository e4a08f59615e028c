"""Ends the children of an `up` that was killed: `python -m services.cli.watcher D`.

Its standard input is a pipe that `up` holds open; the pipe's end is the signal. It
also shares the descriptor of the lock, so no new `up` begins before it is done.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from services.cli.layout import DataDir
from services.cli.ownership import Record


def main() -> None:
    # The end of `up` is the only thing it listens to.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    data = DataDir(Path(sys.argv[1]))
    sys.stdin.buffer.read()
    record = Record.read(data)
    if record is not None:
        record.end_all()


if __name__ == "__main__":
    main()
