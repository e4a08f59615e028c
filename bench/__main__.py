"""`python -m bench`: starts a plane and its peers, measures, prints, writes."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from bench import bare, calls, first, restore, save, sizes, steady, streams
from bench.litestream import find_program
from bench.rows import Row, table, write
from services.chassis.telemetry import configure_logging
from tests.support.plane import PlaneProcess

RESULTS: Final = Path(__file__).with_name("results.json")
# Recordings and large databases, made once; nothing of it is committed.
CACHE: Final = Path(__file__).parents[1] / "build" / "bench"
TURNS: Final = 8
TURNS_FULL: Final = 20
TABLE_WIDTH: Final = 120
SMALL_MB: Final = 100
BIG_MB: Final = 1_000
HUGE_MB: Final = 10_000


@dataclass(frozen=True, slots=True)
class Wanted:
    """How much is asked for, and what there is to do it with."""

    litestream: str
    full: bool  # what takes minutes as well
    huge: bool  # 10 GB as well
    turns: int


@dataclass(frozen=True, slots=True)
class Stage:
    """What the parts are measured on."""

    plane: PlaneProcess
    bare: str
    folder: Path
    wanted: Wanted


Measure = Callable[[Stage], Iterator[Row]]


@dataclass(frozen=True, slots=True)
class Part:
    """One line of the design's table of speeds."""

    title: str
    measure: Measure
    # Takes minutes at a GB, most of them Litestream's.
    long: bool = False
    peer: bool = False


def _restores(stage: Stage) -> Iterator[Row]:
    for size_mb in (SMALL_MB, *[BIG_MB] * stage.wanted.full):
        yield from restore.measure(
            stage.plane, stage.wanted.litestream, stage.folder, size_mb
        )


PARTS: Final = {
    "B1": Part(
        "stored bytes",
        lambda on: sizes.measure(
            on.plane, on.wanted.litestream, on.folder, CACHE, on.wanted.turns
        ),
        peer=True,
    ),
    "B2": Part(
        "steady work",
        lambda on: steady.measure(
            on.plane, on.wanted.litestream, on.folder, (SMALL_MB, BIG_MB)
        ),
        long=True,
        peer=True,
    ),
    "B3": Part(
        "first save",
        lambda on: first.measure(on.plane, on.wanted.litestream, on.folder, BIG_MB),
        long=True,
        peer=True,
    ),
    "B4": Part("restores", _restores, peer=True),
    "B5": Part(
        "small saves",
        lambda on: save.measure(
            on.plane, on.folder, [BIG_MB, *[HUGE_MB] * on.wanted.huge]
        ),
    ),
    "B6": Part("small calls", lambda on: calls.measure(on.plane, on.bare)),
    "B7": Part("streams", lambda on: streams.measure(on.plane, on.bare, on.folder)),
}


def main() -> None:
    """Measures what is named, else all that does not take long."""
    options = parser().parse_args()
    # Services that run in this process have no word in the table.
    configure_logging("bench", "error")
    # Into a file, rich would squeeze the table into 80 columns.
    console = Console(width=None if sys.stdout.isatty() else TABLE_WIDTH)
    chosen = {one: PARTS[one] for one in options.ids or PARTS}
    litestream = find_program() or ""
    left_out = {
        name: "takes long: --full, or name it"
        for name, part in chosen.items()
        if part.long and not (options.full or options.ids)
    } | {
        name: "needs litestream: make setup"
        for name, part in chosen.items()
        if part.peer and not litestream
    }
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="townkeeper-") as at:
        parts = {n: part for n, part in chosen.items() if n not in left_out}
        turns = options.turns or (TURNS_FULL if options.full else TURNS)
        wanted = Wanted(litestream, options.full, options.huge, turns)
        rows = measure(Path(at), parts, wanted)
    console.print(table(rows))
    if not options.full and "B4" in chosen:
        left_out["B4 at 1 GB"] = "takes long: --full"
    for name, why in sorted(left_out.items()):
        console.print(f"left out: {name}: {why}")
    write(rows, options.results)


def measure(folder: Path, parts: dict[str, Part], wanted: Wanted) -> list[Row]:
    """The rows of these parts, each on servers of its own below the folder."""
    rows = list[Row]()
    columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True)) as progress:
        for name, part in parts.items():
            task = progress.add_task(f"{name} {part.title}", total=1)
            (folder / name).mkdir()
            # What one part leaves in the store must not be in the way of the next.
            with (
                PlaneProcess(folder / name / "plane", TOWNKEEPER_EXEC="any") as plane,
                bare.running(folder / name / "bare") as address,
            ):
                stage = Stage(plane, address, folder, wanted)
                rows.extend(part.measure(stage))
            shutil.rmtree(folder / name)
            progress.advance(task)
    return rows


def _part(name: str) -> str:
    """Not by `choices`: before Python 3.12 they refuse that no part is named."""
    if name not in PARTS:
        raise argparse.ArgumentTypeError(f"none of {', '.join(PARTS)}")
    return name


def parser() -> argparse.ArgumentParser:
    """What may be asked for, and how."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "ids", nargs="*", type=_part, metavar="PART", help=f"of {', '.join(PARTS)}"
    )
    parser.add_argument("--full", action="store_true", help="what takes long as well")
    parser.add_argument("--huge", action="store_true", help="B5 with 10 GB as well")
    parser.add_argument("--turns", type=int, help="of each recorded session of B1")
    parser.add_argument("--folder", help="a folder on the disk to measure on")
    parser.add_argument("--results", type=Path, default=RESULTS)
    return parser


if __name__ == "__main__":
    main()
