"""Further columns: SQLite's backup packed by zstd, and restic, where there is one."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

import zstandard

from bench.bare import sync_folder
from bench.rows import Goal, Row, compare

LEVEL: Final = 3
CALL_S: Final = 900.0
_ENVIRON: Final = {"RESTIC_PASSWORD": "bench", "RESTIC_PROGRESS_FPS": "0"}


class Other(Protocol):
    """A way to keep a copy of a database that nobody writes to."""

    @property
    def name(self) -> str:
        """As rows name it."""

    def prepare(self, folder: Path) -> None:
        """Makes what the first copy needs and later ones do not."""

    def keep(self, database: Path, folder: Path) -> None:
        """A durable copy in the folder."""

    def fetch(self, folder: Path, target: Path) -> None:
        """The database again, durable, where there was no file."""


@dataclass(frozen=True, slots=True)
class BackupZstd:
    """`.backup`, then `zstd -3`."""

    name: str = "backup+zstd"

    def prepare(self, folder: Path) -> None:
        """Nothing is needed."""

    def keep(self, database: Path, folder: Path) -> None:
        plain, packed = folder / "backup.db", folder / "backup.zst"
        with (
            closing(sqlite3.connect(database)) as source,
            closing(sqlite3.connect(plain)) as target,
        ):
            target.execute("pragma synchronous = off")
            source.backup(target)
        with plain.open("rb") as file, packed.open("wb") as out:
            zstandard.ZstdCompressor(level=LEVEL).copy_stream(file, out)
            os.fsync(out.fileno())
        plain.unlink()
        sync_folder(folder)

    def fetch(self, folder: Path, target: Path) -> None:
        with (folder / "backup.zst").open("rb") as file, target.open("wb") as out:
            zstandard.ZstdDecompressor().copy_stream(file, out)
            os.fsync(out.fileno())


@dataclass(frozen=True, slots=True)
class Restic:
    """A repository in the folder; it syncs what it writes."""

    program: str
    name: str = "restic"

    def prepare(self, folder: Path) -> None:
        self._run(folder, "init")

    def keep(self, database: Path, folder: Path) -> None:
        self._run(folder, "backup", str(database))

    def fetch(self, folder: Path, target: Path) -> None:
        beside = target.with_name("restored")
        self._run(folder, "restore", "latest", "--target", str(beside))
        (found,) = (path for path in beside.rglob("*") if path.is_file())
        with found.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(found, target)
        shutil.rmtree(beside)

    def _run(self, folder: Path, *words: str) -> None:
        command = [self.program, "--no-cache", "--quiet", "-r", str(folder / "repo")]
        subprocess.run(
            [*command, *words],
            env=os.environ | _ENVIRON,
            check=True,
            capture_output=True,
            timeout=CALL_S,
        )


def others() -> Sequence[Other]:
    """Those that there are on this machine."""
    restic = shutil.which("restic")
    return [BackupZstd(), *([Restic(restic)] if restic else [])]


@dataclass(frozen=True, slots=True)
class Beside:
    """What the others need for the same file, run after run."""

    folder: Path
    kept_s: dict[str, list[float]] = field(default_factory=dict)
    fetched_s: dict[str, list[float]] = field(default_factory=dict)

    def run(self, database: Path) -> None:
        """Each of them keeps it, and brings it back."""
        for other in others():
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
            other.prepare(self.folder)
            begun = time.perf_counter()
            other.keep(database, self.folder)
            kept = time.perf_counter()
            other.fetch(self.folder, self.folder / "again.db")
            fetched = time.perf_counter()
            self.kept_s.setdefault(other.name, []).append(kept - begun)
            self.fetched_s.setdefault(other.name, []).append(fetched - kept)
        shutil.rmtree(self.folder)

    def kept(self, id_: str, what: str, ours_s: Sequence[float]) -> list[Row]:
        """How long ours takes beside theirs."""
        return [
            compare(
                Goal(f"{id_}.{name}", what, 1, f"× {name}", False), ours_s, theirs_s
            )
            for name, theirs_s in self.kept_s.items()
        ]

    def fetched(self, id_: str, what: str, ours_s: Sequence[float]) -> list[Row]:
        """How much faster ours is back."""
        return [
            compare(
                Goal(f"{id_}.{name}", what, 1, f"× as fast as {name}", True),
                theirs_s,
                ours_s,
            )
            for name, theirs_s in self.fetched_s.items()
        ]
