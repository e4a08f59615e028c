"""`townkeeper up` with some services changed: on another Redis, or with a defect.

with changed_plane(tmp_path / "d", "mill", registry=Change({"TOWNKEEPER_…": "…"})): ...

`up` has a Valkey of its own and takes no other, so that nobody points it at one that
forgets. Here a service is told otherwise between the making of its command line and its
start; all else is `up` itself: it starts again what dies.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import pytest

from services.cli import embedded
from services.cli.child import Program
from services.cli.main import main
from services.cli.programs import make_programs
from tests.support.plane import PlaneProcess

ROOT: Final = Path(__file__).parents[2]
# Service → the fields of its Change, as JSON.
CHANGES: Final = "CHANGED_SERVICES"


@dataclass(frozen=True, slots=True)
class Change:
    """What is other in one service: variables, and what Python runs in its place."""

    environ: dict[str, str] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()

    def made(self, program: Program) -> Program:
        """The program, changed."""

        def environ() -> Mapping[str, str]:
            return {**program.environ(), **self.environ}

        argv = [sys.executable, *self.arguments] if self.arguments else program.argv
        return replace(program, argv=argv, environ=environ)


def changed_plane(root: Path, town: str, **changes: Change) -> PlaneProcess:
    """A plane with these changes in the services of these names."""
    told = json.dumps({name: asdict(change) for name, change in changes.items()})
    return PlaneProcess(
        root,
        town,
        program=[sys.executable, "-m", "tests.support.changed_up"],
        PYTHONPATH=f"{ROOT}{os.pathsep}{ROOT / 'protos'}",
        **{CHANGES: told},
    )


def up() -> None:
    """The command itself, with the same arguments."""
    told = json.loads(os.environ.pop(CHANGES))
    changes = {name: Change(**change) for name, change in told.items()}

    def changed(*given: Any) -> dict[str, Program]:
        programs = make_programs(*given)
        return programs | {
            name: change.made(programs[name]) for name, change in changes.items()
        }

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedded, "make_programs", changed)
        main()


if __name__ == "__main__":
    up()
