"""Where in its log a database stood when it was last saved, kept over a restart.

Only a hint: it is used if it belongs to the very state that the page map has, and then
the log itself must prove it. Losing it costs one full compare.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from services.segments.page_map import PageMap
from services.supervisor.wal_index import LogState

_VERSION: Final = 1
# More than this is not worth a file at each save.
_CARRIED_MAX: Final = 10_000


@dataclass(frozen=True, slots=True)
class Position:
    """Where in the log the last save stands. `carried`: pages that may have changed
    between that save and this state, as the log was followed already."""

    state: LogState
    carried: frozenset[int] = frozenset()
    # From an earlier life: a power cut may have taken frames before the last one, and
    # the index may count commits anew. Only the log that it stood in proves anything.
    earlier_life: bool = False


class Kept:
    """The file with the position. Without a path, nothing outlives the process."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._stored = self._load()
        self.trusted = bool(self._stored.get("trusted", True))

    def take(self, page_map: PageMap) -> Position | None:
        """The position, once, if it is that of the map."""
        stored, self._stored = self._stored, {}
        if stored.get("fingerprint") != str(page_map.fingerprint):
            return None
        try:
            state = dict(stored["state"])
            for name in ("salts", "checksum"):
                state[name] = bytes.fromhex(state[name])
            position = Position(
                LogState(**state), frozenset(map(int, stored["carried"])), True
            )
        except (KeyError, TypeError, ValueError):
            return None
        # An empty log may have been deleted and made anew since, and look the same.
        return position if position.state.frame else None

    def put(self, position: Position | None, page_map: PageMap) -> None:
        """Replaces the file. Not synced: after a crash an old one fits no map."""
        if position is None or len(position.carried) > _CARRIED_MAX:
            return
        state = asdict(position.state)
        for name in ("salts", "checksum"):
            state[name] = state[name].hex()
        self._write(
            {
                "fingerprint": str(page_map.fingerprint),
                "state": state,
                "carried": sorted(position.carried),
            }
        )

    def distrust(self) -> None:
        """The log was found to name too little: it is not asked again."""
        self.trusted = False
        self._write({})

    def _write(self, content: dict[str, Any]) -> None:
        if self._path is None:
            return
        text = json.dumps({"version": _VERSION, "trusted": self.trusted, **content})
        fresh = self._path.with_name(self._path.name + ".new")
        with suppress(OSError):  # a full disk costs a compare, no save
            fresh.write_text(text)
            os.replace(fresh, self._path)

    def _load(self) -> dict[str, Any]:
        if self._path is None:
            return {}
        try:
            stored = json.loads(self._path.read_text())
        except (OSError, ValueError):
            return {}
        known = isinstance(stored, dict) and stored.get("version") == _VERSION
        return stored if known else {}
