"""Saves of a database under a storm of writers, each compared with SQLite's own view.

Within the read transaction of each save SQLite serializes the database as well. What
the chain of saves makes of it must be those bytes, and sound. A third of the rounds
keeps the last read transaction open (as for large databases), writers are killed in
mid-transaction, logs are begun anew, cut and left behind. Now and then a save is never
acknowledged, and now and then the supervisor's side begins anew with what it kept on
disk: the page map and its position in the log.

Run it whole: `make storm ROUNDS=10000 SEED=1`.
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import apsw

from services.chassis.telemetry import configure_logging
from services.segments.page_map import PageMap
from services.supervisor import wal_view
from services.supervisor.capture import Capture, StateMoved, Way
from services.supervisor.live_database import LiveDatabase
from services.supervisor.live_source import LiveSource
from services.supervisor.wal_source import WalSource
from services.supervisor.wal_view import View
from tests.faults.storm_writers import ROWS, build

# Of one storm; the next has other writers and another way of reading.
ROUNDS_A_STORM = 250
STORMS = (
    ("small", "small", "large"),
    ("small", "small", "large", "keeper"),
    ("small", "small", "small"),
    ("small", "large", "keeper"),
)
KILL_EVERY = 25
# Equal to what SQLite sees says more; this costs more than all the rest.
CHECK_EVERY = 10
LOST_SHARE = 0.03
RESTARTED_SHARE = 0.03
_TRIES = 20


class Storm:
    """One database, its writers, and the image that its saves add up to."""

    def __init__(self, folder: Path, number: int, seed: int, rows: int = ROWS) -> None:
        self._folder = folder
        self._database = folder / "agent.db"
        self._chance = random.Random(f"{seed} {number}")
        self._kinds = STORMS[number % len(STORMS)]
        self._pause = threading.Event()
        self._writers: list[subprocess.Popen[bytes]] = []
        self._image = bytearray()
        self._map = PageMap()
        self._pin_bytes_min = 0 if number % 3 == 2 else 1 << 40
        self._source = self._opened()
        self.ways: Counter[str] = Counter()
        self.troubles: Counter[str] = Counter()
        self.complaints: list[str] = []
        self.held_s = 0.0
        self.log_frames = 0
        build(self._database, rows)

    def __enter__(self) -> Storm:
        for number in range(len(self._kinds)):
            self._start(number)
        return self

    def __exit__(self, *_: object) -> None:
        for writer in self._writers:
            writer.kill()
            writer.wait()
        self._source.close()

    def _opened(self) -> LiveSource:
        return LiveSource(
            self._database,
            self._folder,
            self._folder / "position",
            pin_bytes_min=self._pin_bytes_min,
        )

    def play(self, number: int) -> bool:
        """One save; True if there was something to save."""
        if number % KILL_EVERY == 0:
            self._replace_a_writer()
        if self._chance.random() < RESTARTED_SHARE:
            self._restart()
        # So there is more or less to save.
        self._pause.wait(self._chance.choice([0.0, 0.005, 0.05, 0.2]))
        seen = self._save()
        if seen is None:
            return False
        reading = self._source.reading
        self.ways[reading.way] += 1
        self.held_s = max(self.held_s, reading.held_s)
        self.log_frames = max(self.log_frames, reading.log_frames)
        self._check(number, seen)
        return True

    def _save(self) -> list[bytes] | None:
        """What SQLite saw in the same read transaction; None: nothing to save."""
        for _ in range(_TRIES):
            seen: list[bytes] = []
            with suppress(StateMoved):
                with _seen_by_sqlite(seen):
                    capture = self._source.capture(self._map)
                if capture is None:
                    return None
                with capture:
                    if self._chance.random() < LOST_SHARE:
                        self.troubles["saves never acknowledged"] += 1
                        return None
                    self._apply(capture)
                return seen
        raise AssertionError("the log moved under each of many readings")

    def _apply(self, capture: Capture) -> None:
        header = capture.header
        size, end = header.page_size, header.page_size * header.page_count
        del self._image[end:]
        self._image += bytes(end - len(self._image))
        for block in capture.blocks():
            for at, page in enumerate(block.numbers):
                data = block.data[at * size : (at + 1) * size]
                self._image[(page - 1) * size : page * size] = data
        capture.commit(self._folder / "map")

    def _check(self, number: int, seen: list[bytes]) -> None:
        # A state that SQLite's own backup read has no second opinion.
        own = self._source.reading.way is Way.BACKUP
        if not own and seen[0] != self._image:
            self.complaints.append(f"save {number}: it is not what SQLite sees")
        if number % CHECK_EVERY:
            return
        alone = bytearray(self._image)
        alone[18:20] = b"\1\1"  # in memory there is no log
        check = apsw.Connection(":memory:")
        check.deserialize("main", bytes(alone))
        found = check.pragma("integrity_check")
        check.close()
        if found != "ok":
            self.complaints.append(f"save {number}: {found}")

    def _restart(self) -> None:
        """A supervisor that was killed leaves no more than this."""
        self.troubles["restarts of the reader"] += 1
        self._source.close()
        self._source = self._opened()
        self._map = PageMap.load(self._folder / "map") or PageMap()

    def _start(self, number: int) -> None:
        seed = str(self._chance.random())
        kind = self._kinds[number]
        command = [sys.executable, "-m", "tests.faults.storm_writers"]
        self._writers.insert(
            number, subprocess.Popen([*command, kind, str(self._database), seed])
        )

    def _replace_a_writer(self) -> None:
        number = self._chance.randrange(len(self._writers))
        writer = self._writers.pop(number)
        if writer.poll() is not None:
            self.complaints.append(f"a writer ended by itself: {writer.returncode}")
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        self._start(number)


@contextmanager
def _seen_by_sqlite(seen: list[bytes]) -> Iterator[None]:
    """Has SQLite read everything as well, in each read transaction of a save."""
    real, capture = wal_view.begin, WalSource.capture

    def captured(
        source: WalSource, page_map: PageMap, *, base: bool, check: bool
    ) -> Capture | None:
        seen.clear()  # what was seen by a reading that moved
        return capture(source, page_map, base=base, check=check)

    def begin(database: LiveDatabase, connection: apsw.Connection) -> View:
        view = real(database, connection)
        if not seen:  # a pin is set after the capture, further along
            seen.append(view.connection.serialize("main"))
        return view

    wal_view.begin = begin
    WalSource.capture = captured  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        wal_view.begin = real
        WalSource.capture = capture  # type: ignore[method-assign]


def play(
    rounds: int, seed: int, tell: Callable[[str], None], rows: int = ROWS
) -> tuple[Counter[str], list[str]]:
    """So many saves that had something to save; how they were read, and complaints."""
    ways: Counter[str] = Counter()
    troubles: Counter[str] = Counter()
    complaints: list[str] = []
    held_s, log_frames, number = 0.0, 0, 0
    while ways.total() < rounds:
        with (
            tempfile.TemporaryDirectory(prefix="storm-") as folder,
            Storm(Path(folder), number, seed, rows) as storm,
        ):
            wanted = min(ROUNDS_A_STORM, rounds - ways.total())
            played = 0
            while storm.ways.total() < wanted:
                played += 1
                storm.play(played)
        ways += storm.ways
        troubles += storm.troubles
        complaints += storm.complaints
        held_s = max(held_s, storm.held_s)
        log_frames = max(log_frames, storm.log_frames)
        number += 1
        tell(
            f"storm {number}: {dict(storm.ways)}, reader at most {storm.held_s:.2f} s,"
            f" log at most {storm.log_frames} frames,"
            f" {len(storm.complaints)} complaints; {ways.total()} of {rounds}"
        )
        for complaint in storm.complaints:
            tell(f"  {complaint}")
    tell(_table(ways, troubles, complaints, seed, held_s, log_frames))
    return ways, complaints


def _table(
    ways: Counter[str],
    troubles: Counter[str],
    complaints: list[str],
    seed: int,
    held_s: float,
    frames: int,
) -> str:
    rows = [
        ("saves", str(ways.total())),
        ("seed", str(seed)),
        *((f"read by way `{way}`", str(count)) for way, count in ways.most_common()),
        *((what, str(count)) for what, count in sorted(troubles.items())),
        ("longest read transaction, SQLite's own copy in it", f"{held_s:.2f} s"),
        ("longest log", f"{frames} frames"),
        ("copies that are not what SQLite saw, or not sound", str(len(complaints))),
    ]
    lines = ["| what | figure |", "| --- | --- |"]
    return "\n".join(lines + [f"| {what} | {figure} |" for what, figure in rows])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    configure_logging("storm", "error")
    # So that ended early, too, it ends its writers.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))

    def tell(line: str) -> None:
        print(line, flush=True)  # noqa: T201

    _, complaints = play(options.rounds, options.seed, tell)
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
