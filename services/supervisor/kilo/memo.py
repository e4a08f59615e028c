"""What the supervisor's successor must know of a Kilo server to go on with it.

Not synced: it is for a supervisor that dies, not for a machine that does; then there is
nothing to adopt. The password is in the server's own environment and nowhere else.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Self

from services.supervisor.kilo.env import PASSWORD
from services.supervisor.process_tree import variable_of

_FILE: Final = "kilo.json"


@dataclass(frozen=True, slots=True)
class Memo:
    """Where the server listens, its session, and the ids (the inbox's, Kilo's) of the
    last message that was handed over, or was about to be."""

    port: int
    session_id: str
    sent: tuple[str, str] = ("", "")

    @classmethod
    def load(cls, folder: Path) -> Self | None:
        """None when there is none that can be read."""
        try:
            stored = json.loads((folder / _FILE).read_text())
            inbox_id, message_id = map(str, stored["sent"])
            return cls(
                int(stored["port"]), str(stored["session_id"]), (inbox_id, message_id)
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, folder: Path) -> None:
        """In place of the earlier one; where that cannot be there is none, rather than
        one that is not true any more."""
        fresh = folder / f"{_FILE}.new"
        try:
            fresh.write_text(json.dumps(asdict(self)))
            os.replace(fresh, folder / _FILE)
        except OSError:
            with suppress(OSError):
                (folder / _FILE).unlink(missing_ok=True)


def password_of(pid: int) -> str | None:
    """What a server asks of its callers; None if it has ended."""
    return variable_of(pid, PASSWORD)
