"""`python -m services.gateway` as a child of the test."""

from __future__ import annotations

import os
import selectors
import subprocess
import sys
from pathlib import Path
from typing import IO

import psutil

START_S = 15.0
STOP_S = 30.0


class GatewayProcess:
    """One gateway in front of the services at two addresses."""

    def __init__(self, registry: str, snapshots: str, keys: Path) -> None:
        self.environ = {
            **os.environ,
            "TOWNKEEPER_GATEWAY_ADDR": "127.0.0.1:0",
            "TOWNKEEPER_REGISTRY_ADDR": registry,
            "TOWNKEEPER_SNAPSHOTS_ADDR": snapshots,
            "TOWNKEEPER_KEYS_DIR": str(keys),
        }
        # No pipe: one that nobody reads would stop the gateway when it is full.
        self._log = keys.with_name("gateway.log")
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def started(self) -> bool:
        return self._child is not None

    @property
    def child(self) -> subprocess.Popen[bytes]:
        assert self._child is not None, "start it first"
        return self._child

    def start(self) -> str:
        """Waits for the ready line; returns the URL in it."""
        with self._log.open("ab") as log:
            self._child = subprocess.Popen(
                [sys.executable, "-m", "services.gateway"],
                env=self.environ,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        line = _first_line(self.child.stdout, START_S)
        word, _, url = line.strip().partition(" ")
        assert "ready" == word, self.log()
        return url

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        if self.child.returncode is None:
            self.child.terminate()
            try:
                self.child.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self.child.kill()
                self.child.wait()
            assert self.child.stdout is not None
            self.child.stdout.close()
        return int(self.child.returncode)

    def log(self) -> str:
        """What it has written on standard error so far."""
        return self._log.read_text("utf-8")

    def run_to_its_end(self) -> tuple[int, str]:
        """Starts one that cannot serve; its exit code and what it says."""
        ended = subprocess.run(
            [sys.executable, "-m", "services.gateway"],
            env=self.environ,
            capture_output=True,
            timeout=START_S,
            check=False,
        )
        return ended.returncode, ended.stderr.decode()

    def rss_bytes(self) -> int:
        return int(psutil.Process(self.child.pid).memory_info().rss)


def _first_line(stream: IO[bytes] | None, limit_s: float) -> str:
    assert stream is not None
    with selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        if not selector.select(limit_s):
            return ""
    return stream.readline().decode()
