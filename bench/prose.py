"""Natural text that lies on every machine: Python's own documentation and source.

Real words in real sentences compress as a conversation does; a made-up vocabulary would
flatter whoever compresses best.
"""

from __future__ import annotations

import ast
import random
import sysconfig
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

# Shorter ones are one-liners that say much the same everywhere.
PARAGRAPH_LENGTH_MIN: Final = 120


class Prose:
    """One conversation's supply: nothing is given twice before all was given once."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._paragraphs = self._shuffled()

    def text(self, length: int) -> str:
        """Whole paragraphs, of about so many characters."""
        taken, size = list[str](), 0
        while size < length:
            taken.append(next(self._paragraphs))
            size += len(taken[-1])
        return "\n\n".join(taken)[: length + PARAGRAPH_LENGTH_MIN]

    def code(self, length: int) -> str:
        """A stretch of a program."""
        whole = source()
        at = self._random.randrange(len(whole) - length)
        return whole[at : at + length]

    def listing(self) -> str:
        """A command that shows part of a program, as agents read files."""
        path = self._random.choice(_modules())
        first = self._random.randrange(1, 200)
        last = first + self._random.randrange(10, 80)
        return f"sed -n '{first},{last}p' {path}"

    def _shuffled(self) -> Iterator[str]:
        while True:
            paragraphs = list(_paragraphs())
            self._random.shuffle(paragraphs)
            yield from paragraphs


@cache
def source() -> str:
    """The text of the standard library's modules, some MB."""
    return "\n".join(map(_read, _modules()))


@cache
def _paragraphs() -> tuple[str, ...]:
    found = dict[str, None]()
    for path in _modules():
        for node in ast.walk(ast.parse(_read(path))):
            if isinstance(
                node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
            ):
                for paragraph in (ast.get_docstring(node) or "").split("\n\n"):
                    if len(paragraph) >= PARAGRAPH_LENGTH_MIN:
                        found[paragraph] = None
    return tuple(found)


@cache
def _modules() -> tuple[Path, ...]:
    return tuple(sorted(_library().glob("*.py")))


def _library() -> Path:
    return Path(sysconfig.get_path("stdlib"))


def _read(path: Path) -> str:
    return path.read_text("utf-8", "replace")
