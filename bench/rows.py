"""What a measurement becomes: one ratio with its target, and how far it wandered."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich import box
from rich.table import Table

# Fewer say nothing about how far a figure wanders.
RUNS_MIN: Final = 5


@dataclass(frozen=True, slots=True)
class Goal:
    """What is measured and what the design promises of it."""

    id: str
    what: str
    target: float
    unit: str
    # Whether the target is the least that will do, or the most.
    at_least: bool


@dataclass(frozen=True, slots=True)
class Row:
    """A goal and the ratio of each run."""

    goal: Goal
    ratios: Sequence[float]

    @property
    def value(self) -> float:
        return statistics.median(self.ratios)

    @property
    def spread(self) -> float:
        """From the lowest run to the highest, as a share of the median."""
        return (max(self.ratios) - min(self.ratios)) / self.value

    @property
    def met(self) -> bool:
        if self.goal.at_least:
            return self.value >= self.goal.target
        return self.value <= self.goal.target


def compare(goal: Goal, ours: Sequence[float], baseline: Sequence[float]) -> Row:
    """Each run of ours against the run of the baseline that stood beside it."""
    if len(ours) < RUNS_MIN:
        raise ValueError(f"cannot judge {len(ours)} runs: make {RUNS_MIN}")
    return Row(goal, [a / b for a, b in zip(ours, baseline, strict=True)])


def table(rows: Sequence[Row]) -> Table:
    """For people."""
    found = Table(title="Ratios within this run, medians", box=box.SIMPLE)
    found.add_column("id", no_wrap=True)
    found.add_column("what")
    found.add_column("value", justify="right")
    found.add_column("unit")
    for name in ("target", "runs", "spread"):
        found.add_column(name, justify="right")
    found.add_column("met")
    for row in rows:
        goal, sign = row.goal, "≥" if row.goal.at_least else "≤"
        found.add_row(
            goal.id,
            goal.what,
            f"{row.value:.3g}",
            goal.unit,
            f"{sign} {goal.target:g}",
            str(len(row.ratios)),
            f"{row.spread:.0%}",
            "[green]yes[/]" if row.met else "[red]no[/]",
        )
    return found


def write(rows: Sequence[Row], path: Path) -> None:
    """For programs."""
    found = [
        {
            "id": row.goal.id,
            "value": round(row.value, 5),
            "target": row.goal.target,
            "unit": row.goal.unit,
            "runs": len(row.ratios),
            "spread": round(row.spread, 3),
            "met": row.met,
        }
        for row in rows
    ]
    path.write_text(json.dumps({"rows": found}, indent=2) + "\n", "utf-8")
