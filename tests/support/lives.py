"""A program whose imports are paid once: each life of it is a fork, made to be killed.

with Lives("tests.faults.snapshots.dying_service") as lives:
    lives.start(log, TOWNKEEPER_DATA_DIR=…)
    assert "ready" in lives.line()
    lives.kill()
"""

from __future__ import annotations

import importlib
import json
import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

ROOT: Final = Path(__file__).parents[2]
LIMIT_S: Final = 60.0


class Lives:
    """One life after the other; the module has `main() -> int`, as a command."""

    def __init__(self, module: str) -> None:
        self._module = module
        self._process: subprocess.Popen[str] | None = None
        self.pid = 0
        self.code = 0

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.lives", self._module],
            cwd=ROOT,
            env={
                "PATH": os.environ["PATH"],
                "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'protos'}",
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()
        process = self._process
        assert process is not None
        assert process.stdin is not None
        process.stdin.close()
        process.wait(10)
        assert process.stdout is not None
        process.stdout.close()

    def start(self, log: Path, **environ: str) -> None:
        """A new life, with this environment and nothing else of ours."""
        assert not self.pid, "one life at a time"
        assert self._process is not None
        assert self._process.stdin is not None
        asked = {"log": str(log), "environ": environ}
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        self.pid = int(self.line().removeprefix("pid "))

    def line(self, limit_s: float = LIMIT_S) -> str:
        """What it says next on its standard output, or that it `ended` and how."""
        assert self._process is not None
        stdout = self._process.stdout
        assert stdout is not None
        # Read without a buffer of ours: what is in one would not wake the selector.
        text = b""
        with selectors.DefaultSelector() as selector:
            selector.register(stdout, selectors.EVENT_READ)
            while not text.endswith(b"\n"):
                assert selector.select(limit_s), f"{self._module} says nothing"
                part = os.read(stdout.fileno(), 1)
                assert part, f"{self._module} is gone"
                text += part
        said = text.decode().rstrip("\n")
        if said.startswith("ended "):
            self.pid = 0
            self.code = int(said.removeprefix("ended "))
        return said

    def ended(self, limit_s: float = LIMIT_S) -> int:
        """Its exit code once it has ended; negative is a signal."""
        while self.pid:
            self.line(limit_s)
        return self.code

    def kill(self) -> None:
        """SIGKILL, unless it has ended."""
        self.signal(signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM, and waits for its end."""
        self.signal(signal.SIGTERM)

    def signal(self, number: signal.Signals) -> None:
        if self.pid:
            with suppress(ProcessLookupError):  # it has died by itself
                os.kill(self.pid, number)
            self.ended()


def _serve(main: Callable[[], int]) -> None:
    for line in sys.stdin:
        asked = json.loads(line)
        pid = os.fork()
        if not pid:
            _live(main, asked)
        _, status = os.waitpid(pid, 0)
        _say(f"ended {os.waitstatus_to_exitcode(status)}")


def _live(main: Callable[[], int], asked: dict[str, Any]) -> None:
    """Never returns."""
    code = 70
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        log = os.open(asked["log"], flags, 0o600)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(log, 2)
        os.environ.clear()
        os.environ.update(asked["environ"])
        _say(f"pid {os.getpid()}")
        code = main()
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    _serve(importlib.import_module(sys.argv[1]).main)
