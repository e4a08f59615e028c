"""How a command ends: exit codes, and one line on stderr that says what to do."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """What a command's exit code means; the same for every command."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    REFUSED = 4


class Problem(Exception):
    """A command cannot be done; the text starts with "cannot" and says what to do.

    `detail` may hold further lines: the end of a child's log.
    """

    def __init__(
        self, message: str, code: Exit = Exit.FAILED, detail: str = ""
    ) -> None:
        super().__init__(message)
        self.code = code
        self.detail = detail


def one_line(text: str) -> str:
    """The text on one line, whatever a server or a library put into it."""
    return " ".join(text.split())
