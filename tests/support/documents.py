"""Documents as tests see them: their code blocks, and those run as a newcomer would."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.support.plane import COMMAND, PlaneProcess

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
_BLOCK = re.compile(r"^```(\w+)[ \t]*(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block; `note` is the word after its language."""

    language: str
    note: str
    text: str

    @property
    def script(self) -> str:
        """For bash: a block that `fails` must do so."""
        if self.note != "fails":
            return self.text
        return (
            f"if {{ {self.text.strip()}\n}}; then echo 'it did not fail'; exit 1; fi\n"
        )


def blocks(document: Path, *, section: str = "") -> list[Block]:
    """All blocks of a document, or those below one heading."""
    text = document.read_text("utf-8")
    if section:
        text = re.split(rf"^#+ {re.escape(section)}$", text, flags=re.MULTILINE)[1]
        text = re.split(r"^## ", text, flags=re.MULTILINE)[0]
    return [Block(*found) for found in _BLOCK.findall(text)]


def shell_blocks(document: Path, *, section: str = "") -> list[Block]:
    """Those that a reader types, in order; `title` ones only show how to begin."""
    found = blocks(document, section=section)
    return [one for one in found if one.language == "sh" and one.note != "title"]


def run_blocks(given: list[Block], plane: PlaneProcess, folder: Path) -> str:
    """Types them all into one shell beside a running plane; what it printed."""
    script = "set -euo pipefail\n" + "".join(one.script for one in given)
    for default, actual in _addresses(plane).items():
        script = script.replace(default, actual)
    (folder / "examples").symlink_to(ROOT / "examples")
    programs = Path(COMMAND[0]).parent
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        env={**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


def _addresses(plane: PlaneProcess) -> dict[str, str]:
    """The defaults that documents name → where this plane answers."""
    found = plane.endpoints
    return {
        "http://127.0.0.1:8080": found.http,
        "127.0.0.1:50051": found.registry,
        "127.0.0.1:50052": found.snapshots,
        "127.0.0.1:50053": found.supervisor,
    }
