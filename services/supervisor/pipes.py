"""The standard streams of a child: anonymous pipes, or named ones, which a successor of
this process can open again.

Whoever has a named pipe as a standard stream holds both ends of it: it reads no end of
input and writes into no broken pipe while nobody is there, and what it writes waits.
"""

from __future__ import annotations

import os
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

_STDIN, _STDOUT, _STDERR = "stdin", "stdout", "stderr"


@dataclass(frozen=True, slots=True)
class Ends:
    """File descriptors of one side; the child's block, ours do not. `stdin` is None
    where nobody reads it."""

    stdin: int | None
    stdout: int
    stderr: int

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for descriptor in (self.stdin, self.stdout, self.stderr):
            if descriptor is not None:
                os.close(descriptor)


def make(folder: Path | None, *, stdin: bool) -> tuple[Ends, Ends]:
    """Ours and the child's; with a folder named pipes in it, in place of earlier ones.
    May raise OSError."""
    if folder is None:
        return _anonymous(stdin=stdin)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name in (_STDIN, _STDOUT, _STDERR):
        (folder / name).unlink(missing_ok=True)
    for name in (_STDIN, _STDOUT, _STDERR) if stdin else (_STDOUT, _STDERR):
        os.mkfifo(folder / name, 0o600)
    with ExitStack() as undo:
        child = Ends(
            _opened(undo, folder / _STDIN, os.O_RDWR) if stdin else None,
            _opened(undo, folder / _STDOUT, os.O_RDWR),
            _opened(undo, folder / _STDERR, os.O_RDWR),
        )
        ours = reopen(folder)
        undo.pop_all()
    return ours, child


def reopen(folder: Path) -> Ends:
    """Ours, of named pipes that a child has open; may raise OSError."""
    reading = os.O_RDONLY | os.O_NONBLOCK
    with ExitStack() as undo:
        stdin = None
        with suppress(OSError):  # there is none, or the child has closed it
            stdin = _opened(undo, folder / _STDIN, os.O_WRONLY | os.O_NONBLOCK)
        stdout = _opened(undo, folder / _STDOUT, reading)
        stderr = _opened(undo, folder / _STDERR, reading)
        undo.pop_all()
    return Ends(stdin, stdout, stderr)


def _opened(undo: ExitStack, path: Path, flags: int) -> int:
    descriptor = os.open(path, flags)
    undo.callback(os.close, descriptor)
    return descriptor


def _anonymous(*, stdin: bool) -> tuple[Ends, Ends]:
    child_in, our_in = os.pipe() if stdin else (None, None)
    (our_out, child_out), (our_err, child_err) = os.pipe(), os.pipe()
    for descriptor in (our_in, our_out, our_err):
        if descriptor is not None:
            os.set_blocking(descriptor, False)
    return Ends(our_in, our_out, our_err), Ends(child_in, child_out, child_err)
