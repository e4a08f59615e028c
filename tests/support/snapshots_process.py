"""The snapshot service as a process of its own, to be killed and started again."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.tokens import Tokens

ROOT = Path(__file__).parents[2]


class SnapshotsProcess:
    """Keeps its port over restarts, so that clients come back by themselves."""

    def __init__(
        self,
        folder: Path,
        redis_url: str,
        tokens: Tokens,
        *,
        module: str = "services.snapshots",
        **environ: str,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.blobs = folder / "blobs"
        self.log = folder / "snapshots.log"
        self.module = module
        self.tokens = tokens
        self.environ = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'protos'}",
            "TOWNKEEPER_SNAPSHOTS_ADDR": "127.0.0.1:0",
            "TOWNKEEPER_REDIS_URL": redis_url,
            "TOWNKEEPER_BLOB_URL": self.blobs.as_uri(),
            "TOWNKEEPER_KEYS_DIR": str(tokens.folder),
            **environ,
        }
        self.address = ""
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self, **environ: str) -> None:
        """Returns when it says that it is ready."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", self.module],
                cwd=ROOT,
                env={**self.environ, **environ},
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        line = self._first_line()
        assert line.startswith("ready grpc://"), self.log.read_text()
        self.address = line.removeprefix("ready grpc://").strip()
        self.environ["TOWNKEEPER_SNAPSHOTS_ADDR"] = self.address

    def _first_line(self, limit_s: float = 60.0) -> str:
        assert self._process is not None
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            assert selector.select(limit_s), f"not ready: {self.log.read_text()}"
        return self._process.stdout.readline()

    def kill(self) -> None:
        """SIGKILL, at whatever it is doing."""
        if self._process is not None:
            self._process.kill()
            self._reap()

    def stop(self, limit_s: float = 15.0) -> int:
        """SIGTERM; its exit code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        code = self._process.wait(limit_s)
        self._reap()
        return code

    def wait(self, limit_s: float = 15.0) -> int:
        """Its exit code, once it ended by itself."""
        assert self._process is not None
        code = self._process.wait(limit_s)
        self._reap()
        return code

    def _reap(self) -> None:
        assert self._process is not None
        self._process.wait(10)
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._process = None

    def rss_bytes(self) -> int:
        """What it holds in memory now."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        [line] = [line for line in status.splitlines() if line.startswith("VmRSS")]
        return int(line.split()[1]) * 1024

    def peak_rss_bytes(self) -> int:
        """The most it ever held."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        [line] = [line for line in status.splitlines() if line.startswith("VmHWM")]
        return int(line.split()[1]) * 1024


def refused_start(environ: dict[str, str], module: str = "services.snapshots") -> str:
    """What a process that cannot start says."""
    done = subprocess.run(
        [sys.executable, "-m", module],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert done.returncode == 1, done.stderr
    return done.stderr
