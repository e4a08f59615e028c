"""Where the programs that agents run on are installed, and how one is found."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from services.chassis.errors import Reason, ServiceError

ROOT: Final = Path(".cache/townkeeper/runtimes")  # below the user's home


def runtimes_root(environ: Mapping[str, str]) -> Path:
    """The folder that holds the installed ones; each has a link there to itself."""
    return Path(environ.get("HOME") or Path.home()) / ROOT


def variable(name: str) -> str:
    """The setting that names a program's executable, wherever it lies."""
    return f"TOWNKEEPER_{name.upper()}_BIN"


def find_program(name: str, environ: Mapping[str, str]) -> Path | None:
    """The executable: the one that the setting names, else the installed one."""
    given = environ.get(variable(name))
    path = Path(given) if given else runtimes_root(environ) / name
    return path.resolve() if path.is_file() and os.access(path, os.X_OK) else None


def require_program(name: str, environ: Mapping[str, str]) -> Path:
    """`find_program`, or RUNTIME_MISSING with what to do about it."""
    found = find_program(name, environ)
    if found is not None:
        return found
    given = environ.get(variable(name))
    cure = (
        f"{variable(name)} names {given}, which is no executable file; correct it"
        if given
        else f"run `townkeeper runtime install {name}` or set {variable(name)}"
    )
    raise ServiceError(Reason.RUNTIME_MISSING, f"cannot find {name}: {cure}")
