"""The peer: Litestream, to a folder on the same disk, as its defaults have it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.support.waiting import wait_until_sync

CALL_S: Final = 900.0
STOP_S: Final = 60.0
# How often each level takes up what the one below has: level 1, 2, 3.
DEFAULT_LEVELS: Final = ("30s", "5m", "1h")
# To have what it does once with a first copy behind us.
HASTY_LEVELS: Final = ("1s", "2s", "3s")
SNAPSHOT_LEVEL: Final = 9


def find_program() -> str | None:
    """It is among the packages for development."""
    beside = Path(sys.executable).with_name("litestream")
    return str(beside) if beside.exists() else shutil.which("litestream")


@dataclass(frozen=True, slots=True)
class Litestream:
    """One database and its replica."""

    program: str
    folder: Path
    live: Path | None = None  # if it is somebody else's

    @property
    def database(self) -> Path:
        return self.live or self.folder / "live.db"

    def remove(self) -> None:
        """Database, replica, and what it keeps beside the database."""
        shutil.rmtree(self.folder)

    @property
    def replica(self) -> Path:
        return self.folder / "replica"

    @contextmanager
    def replicating(
        self, levels: Sequence[str] = DEFAULT_LEVELS
    ) -> Iterator[subprocess.Popen[bytes]]:
        """The process, as long as the block lasts; looks each second by itself."""
        self.folder.mkdir(parents=True, exist_ok=True)
        config = self.folder / "litestream.yml"
        config.write_text(json.dumps(self._config(levels)))  # JSON is YAML
        command = [self.program, "replicate", "-config", str(config)]
        with (self.folder / "litestream.log").open("ab") as log:
            process = subprocess.Popen(command, env=_environ(), stdout=log, stderr=log)
        try:
            wait_until_sync(self._socket.exists, what="Litestream listens")
            yield process
        finally:
            process.terminate()
            process.wait(STOP_S)

    def sync(self) -> None:
        """Returns when all that was committed is in the replica."""
        options = ["-wait", "-timeout", f"{CALL_S:.0f}", "-socket", str(self._socket)]
        wait_until_sync(
            lambda: self._run("sync", *options, str(self.database)).returncode == 0,
            what="Litestream takes the database up",
            limit_s=CALL_S,
        )

    def settle(self) -> None:
        """Replicates until every level holds the first copy: each is made once, and
        would be taken for steady work."""
        with self.replicating(HASTY_LEVELS):
            self.sync()
            wait_until_sync(
                lambda: all(self.size_bytes(level) for level in (1, 2, 3, 9)),
                what="Litestream has its first copies",
                limit_s=CALL_S,
            )

    def restore(self, target: Path) -> float:
        """Seconds for the newest state, checked as a restore of ours is."""
        begun = time.perf_counter()
        done = self._run(
            "restore",
            *("-integrity-check", "quick", "-o", str(target)),
            f"file://{self.replica}",
        )
        took_s = time.perf_counter() - begun
        assert done.returncode == 0, done.stderr
        return took_s

    def size_bytes(self, *levels: int) -> int:
        """What these levels of the replica hold; files still growing left out."""
        return sum(
            path.stat().st_size
            for level in levels
            for path in (self.replica / "ltx" / str(level)).glob("*.ltx")
        )

    def caught_up(self, level: int) -> bool:
        """Whether a level has all that has come into level 0."""
        newest, wanted = self._newest(level), self._newest(0)
        return newest == wanted != ""

    def _newest(self, level: int) -> str:
        # Files are named for the first and the last transaction in them.
        names = (self.replica / "ltx" / str(level)).glob("*.ltx")
        return max((path.stem.partition("-")[2] for path in names), default="")

    @property
    def _socket(self) -> Path:
        return self.folder / "socket"

    def _config(self, levels: Sequence[str]) -> dict[str, object]:
        replica = {"path": str(self.replica), "sync-interval": "1s"}
        return {
            "socket": {"enabled": True, "path": str(self._socket)},
            "levels": [{"interval": interval} for interval in levels],
            "dbs": [{"path": str(self.database), "replica": replica}],
        }

    def _run(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [self.program, *words]
        return subprocess.run(
            command, env=_environ(), capture_output=True, text=True, timeout=CALL_S
        )


def _environ() -> dict[str, str]:
    # Its client for S3, which is not used here, dies of this one.
    return {key: value for key, value in os.environ.items() if key != "AWS_CA_BUNDLE"}
