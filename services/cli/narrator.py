"""Tells a story on standard output: with a spinner on a terminal, plainly elsewhere."""

from __future__ import annotations

import contextlib
import textwrap
import time
from collections.abc import Callable, Iterator
from typing import Final

from rich.console import Console
from rich.status import Status

_WIDTH: Final = 78
_SPEAKER_WIDTH: Final = 8

Progress = Callable[[str], None]


class Narrator:
    """Steps, each with the time it took; lines said; a verdict."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def title(self, text: str) -> None:
        self._console.print(f"\n{text}\n", style="bold", markup=False)

    @contextlib.contextmanager
    def step(self, text: str) -> Iterator[Progress]:
        """Shows that something is under way, and then how long it took.

        What is yielded replaces the words while it lasts; the last ones stay.
        """
        begun, said = time.monotonic(), [text]
        spinner = self._spinner(text)

        def progress(now: str) -> None:
            said.append(now)
            if spinner is not None:
                spinner.update(now)

        with spinner or contextlib.nullcontext():
            yield progress
        took_s = time.monotonic() - begun
        self.fact(f"{said[-1]} ({took_s:.1f} s)")

    def fact(self, text: str) -> None:
        self._console.print(f"  ✓ {text}", style="green", markup=False)

    def wrong(self, text: str) -> None:
        self._console.print(f"  ✗ {text}", style="bold red", markup=False)

    def note(self, text: str) -> None:
        self._console.print(f"  {text}", style="dim", markup=False)

    def say(self, who: str, text: str) -> None:
        """One turn of a conversation."""
        indent = " " * (4 + _SPEAKER_WIDTH)
        lines = [
            wrapped
            for line in text.strip().splitlines()
            for wrapped in textwrap.wrap(line, _WIDTH - len(indent)) or [""]
        ]
        first = f"    {who.ljust(_SPEAKER_WIDTH)}"
        for line in lines or [""]:
            self._console.print(first + line, markup=False)
            first = indent

    def gap(self) -> None:
        self._console.print()

    def _spinner(self, text: str) -> Status | None:
        return self._console.status(text) if self._console.is_terminal else None
