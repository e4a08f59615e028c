"""The snapshot service on a disk that fails: a program for tests.

While `TK_FAILING` names a file, each system call that is written in it ends with EIO.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from services.snapshots.__main__ import main

FAILING = Path(os.environ["TK_FAILING"])


def failing(name: str) -> Callable[..., Any]:
    real = getattr(os, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        if FAILING.exists() and FAILING.read_text() == name:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(*args, **kwargs)

    return call


if __name__ == "__main__":
    for each in ("fsync", "pwrite", "link"):
        setattr(os, each, failing(each))
    sys.exit(main())
