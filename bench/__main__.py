"""`python -m bench`: starts a plane and a bare server, measures, prints, writes."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from bench import bare, calls, save, streams
from bench.rows import Row, table, write
from tests.support.plane import PlaneProcess

RESULTS = Path(__file__).with_name("results.json")
TITLES = {"B5": "saving", "B6": "small calls", "B7": "streams"}


def main() -> None:
    """Measures all, or what is named."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("ids", nargs="*", help="B5, B6, B7; none: all of them")
    parser.add_argument("--folder", help="a folder on the disk to measure on")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    if unknown := set(options.ids) - set(TITLES):
        parser.error(f"cannot measure {', '.join(sorted(unknown))}: no such row")
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="townkeeper-") as at:
        rows = measure(Path(at), options.ids or list(TITLES))
    Console().print(table(rows))
    write(rows, options.results)


def measure(folder: Path, ids: list[str]) -> list[Row]:
    """The rows of these ids, on servers of their own below the folder."""
    rows = list[Row]()
    columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
    with (
        Progress(*columns, console=Console(stderr=True)) as progress,
        PlaneProcess(folder / "plane", TOWNKEEPER_EXEC="any") as plane,
        bare.running(folder / "bare") as address,
    ):
        measures: dict[str, Callable[[], Iterator[Row]]] = {
            "B5": lambda: save.measure(plane, folder),
            "B6": lambda: calls.measure(plane, address),
            "B7": lambda: streams.measure(plane, address, folder),
        }
        for one in ids:
            task = progress.add_task(f"{one} {TITLES[one]}", total=1)
            rows.extend(measures[one]())
            progress.advance(task)
    return rows


if __name__ == "__main__":
    main()
