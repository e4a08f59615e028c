"""The registry as a process of its own, to be killed and started again."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from services.chassis.sealing import SealingKeys
from tests.support.tokens import Tokens

ROOT = Path(__file__).parents[2]


class RegistryProcess:
    """Keeps its port over restarts, so that clients come back by themselves."""

    def __init__(
        self,
        folder: Path,
        redis_url: str,
        tokens: Tokens,
        *,
        module: str = "services.registry",
        **environ: str,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        SealingKeys.create(tokens.folder)
        self.log = folder / "registry.log"
        self.module = module
        self.environ = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'protos'}",
            "TOWNKEEPER_REGISTRY_ADDR": "127.0.0.1:0",
            "TOWNKEEPER_REDIS_URL": redis_url,
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

    def start(self) -> None:
        """Returns when it says that it is ready."""
        self._process = self._spawn()
        line = self._first_line()
        assert line.startswith("ready grpc://"), self.log.read_text()
        self.address = line.removeprefix("ready grpc://").strip()
        self.environ["TOWNKEEPER_REGISTRY_ADDR"] = self.address

    def refused(self, limit_s: float = 20.0) -> str:
        """Starts it, to see it end; what it said on its way out."""
        process = self._spawn()
        assert 1 == process.wait(limit_s)
        assert process.stdout is not None
        process.stdout.close()
        return self.log.read_text()

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

    def _spawn(self) -> subprocess.Popen[str]:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", self.module],
                cwd=ROOT,
                env=self.environ,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def _first_line(self, limit_s: float = 15.0) -> str:
        assert self._process is not None
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            assert selector.select(limit_s), f"not ready: {self.log.read_text()}"
        return self._process.stdout.readline()

    def _reap(self) -> None:
        assert self._process is not None
        self._process.wait(10)
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._process = None
