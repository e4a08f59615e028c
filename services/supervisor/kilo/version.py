"""The version of a Kilo executable: read beside it where npm put it, else asked.

Asking starts the whole runtime: a second or two that each boot would wait for.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from pathlib import Path
from typing import Final

from services.chassis.errors import Reason, ServiceError
from services.supervisor import spawn

ASK_S: Final = 30.0
# `@kilocode/cli` itself, and `@kilocode/cli-linux-x64` and its like.
_PACKAGE: Final = "@kilocode/cli"


async def find_version(program: Path) -> str:
    """What `program --version` would say. Raises START_FAILED if it says nothing."""
    return await asyncio.to_thread(packaged_version, program) or await _ask(program)


def packaged_version(program: Path) -> str:
    """The version of the npm package that the executable is part of; empty: none."""
    executable = program.resolve()
    if executable.parent.name != "bin":
        return ""
    try:
        text = (executable.parent.parent / "package.json").read_text("utf-8")
        package = json.loads(text)
    except (OSError, ValueError):
        return ""
    if not isinstance(package, dict):
        return ""
    name, version = package.get("name"), package.get("version")
    if not isinstance(name, str) or not name.startswith(_PACKAGE):
        return ""
    return version if isinstance(version, str) else ""


async def _ask(program: Path) -> str:
    """Runs it in a folder of its own: it writes wherever it is."""
    with tempfile.TemporaryDirectory(prefix="townkeeper-") as folder:
        places = {"HOME": folder, "TMPDIR": folder}
        command = spawn.Command((str(program), "--version"), Path(folder), places)
        try:
            answer = await spawn.run(command, ASK_S)
        except TimeoutError:
            answer = spawn.Finished(1, "", f"no answer in {ASK_S:.0f} s")
    lines = answer.stdout.split()
    if answer.code != 0 or not lines:
        raise ServiceError(
            Reason.START_FAILED,
            f"cannot ask {program} for its version: {answer.stderr[-300:]}",
        )
    return lines[-1]
