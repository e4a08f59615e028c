"""What every campaign's command has: rounds, a seed, a line for each round, a table."""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

Say = Callable[[str], None]
Rows = list[tuple[str, object]]


class Round(Protocol):
    """One of them; what it complains of makes the campaign fail."""

    complaints: list[str]


R = TypeVar("R", bound=Round)


def asked(rounds: int) -> tuple[int, int]:
    """Rounds and seed for a test: a few, unless the environment asks for more."""
    return int(os.environ.get("ROUNDS") or rounds), int(os.environ.get("SEED") or 1)


def run(
    about: str | None,
    rounds: int,
    play: Callable[[int, int, Say], list[R]],
    rows: Callable[[list[R]], Rows],
    verdict: Callable[[list[R]], list[str]] = lambda rounds: [],
    *,
    counted: str = "rounds",
) -> int:
    """The command: plays so many rounds, or of what else is counted, and prints the
    table of docs/proof.md; 1 if anything is wrong."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument(f"--{counted}", dest="count", type=int, default=rounds)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    played = play(options.count, options.seed, _say)
    wrong = sum(bool(one.complaints) for one in played)
    first: Rows = [("rounds", len(played)), ("seed", options.seed)]
    last: Rows = [("rounds with a complaint", wrong)]
    lines = ["| what | figure |", "| --- | --- |"]
    lines += [f"| {what} | {n} |" for what, n in [*first, *rows(played), *last]]
    sys.stdout.write("\n".join(lines) + "\n")
    complaints = verdict(played)
    for complaint in complaints:
        _say(complaint)
    return 1 if wrong or complaints else 0


def in_lanes(lanes: int, rounds: int, play: Callable[[int, range], list[R]]) -> list[R]:
    """Plays rounds side by side: each lane, from 1, gets the numbers of its own."""
    with ThreadPoolExecutor(lanes) as pool:
        playing = [
            pool.submit(play, lane, range(lane, rounds + 1, lanes))
            for lane in range(1, min(lanes, rounds) + 1)
        ]
        return [one for lane in playing for one in lane.result()]


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that so many percent of all do not exceed."""
    place = math.ceil(len(values) * percent / 100)
    return sorted(values)[max(place, 1) - 1]


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
