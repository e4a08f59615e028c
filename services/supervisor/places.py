"""Where an agent's files lie below the data directory, and the small record beside
them that says which saved state the database on disk descends from."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Self

from services.chassis.names import AgentName
from services.segments.disk import sync_folder

RECORD_VERSION: Final = 1
# What a database consists of, by what follows its name.
_PARTS: Final = ("", "-wal", "-shm", "-journal")


@dataclass(frozen=True, slots=True)
class Lineage:
    """The saved state that a database on disk descends from."""

    generation: int  # 0: a fresh one, descends from nothing
    epoch: int
    session_id: str = ""
    runtime: str = ""
    deltas: int = 0  # that the generation reads as, after its base
    upload_id: str = ""  # of a save of this database that may have landed since


@dataclass(frozen=True, slots=True)
class Places:
    """The directories of one agent. All absolute, owner-only, and of this agent."""

    root: Path  # D/agents/{agent}

    @classmethod
    def of(cls, data_dir: Path, name: AgentName) -> Self:
        """Those of an agent of this supervisor."""
        return cls(data_dir / "agents" / name.agent)

    @property
    def home(self) -> Path:
        return self.root / "home"

    @property
    def tmpdir(self) -> Path:
        return self.root / "tmp"

    @property
    def scratch(self) -> Path:
        """For saves and hydration: same disk as the home, so that a rename works."""
        return self.root / "scratch"

    @property
    def handover(self) -> Path:
        """What the next supervisor needs to adopt the run that is on."""
        return self.root / "handover"

    @property
    def token(self) -> Path:
        """The token of the run that is on, for the agent to read."""
        return self.root / "token"

    @property
    def page_map(self) -> Path:
        return self.root / "pages.map"

    @property
    def log_position(self) -> Path:
        return self.root / "log-position.json"

    @property
    def _record(self) -> Path:
        return self.root / "lineage.json"

    def prepare(self) -> None:
        """Makes what is missing; scratch is emptied, nothing in it outlives a run, nor
        what a crash left of a file that was to replace another."""
        shutil.rmtree(self.scratch, ignore_errors=True)
        for left in self.root.glob("*.new"):
            left.unlink() if left.is_file() else shutil.rmtree(left)
        for path in (self.root, self.home, self.tmpdir, self.scratch, self.handover):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.chmod(0o700)

    def lineage(self) -> Lineage | None:
        """What the record says; None when there is none that can be read."""
        try:
            stored = json.loads(self._record.read_text())
            if stored.pop("version") != RECORD_VERSION:
                return None
            return Lineage(**stored)
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None

    def record(self, lineage: Lineage) -> None:
        """Replaces the record. Not synced: a lost record only costs a full save."""
        text = json.dumps({"version": RECORD_VERSION, **asdict(lineage)})
        fresh = self._record.with_suffix(".new")
        fresh.write_text(text)
        os.replace(fresh, self._record)

    def set_aside(self, database: Path, why: str) -> Path | None:
        """Moves a database that must not be used out of the way, side files too.

        Kept until an operator removes it: it may be the only copy of something.
        """
        if not database.exists():
            return None
        shelf = self.root / "aside"
        shelf.mkdir(mode=0o700, exist_ok=True)
        number = 1 + max(
            (int(p.name.split("-")[0]) for p in shelf.iterdir()), default=0
        )
        target = shelf / f"{number:04d}-{why}"
        self._linked(database, target)
        # The database goes first: what a crash leaves is no database then.
        for suffix in _PARTS:
            database.with_name(database.name + suffix).unlink(missing_ok=True)
        self._record.unlink(missing_ok=True)
        for path in (self.page_map, self.log_position):
            path.unlink(missing_ok=True)
        return target

    def _linked(self, database: Path, target: Path) -> None:
        """Gives all its files second names, in a folder that appears when all have
        them: moved one by one, a crash would part the database from its log."""
        fresh = self.root / "aside.new"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        for suffix in _PARTS:
            part = database.with_name(database.name + suffix)
            if part.exists():
                os.link(part, fresh / part.name)
        sync_folder(fresh)
        os.rename(fresh, target)
        sync_folder(target.parent)
