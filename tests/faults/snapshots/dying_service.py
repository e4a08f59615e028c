"""The snapshot service, killing itself at one durable step: a program for tests.

Counts what makes things last (syncs, links, renames, removals, scripts) from the
moment `TK_ARMED` names a file that exists; writes each step's name into it; before
step number `TK_DIE_AT` it ends by SIGKILL.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from services.chassis.redis_pool import Script
from services.snapshots.__main__ import main

ARMED = Path(os.environ["TK_ARMED"])
DIE_AT = int(os.environ["TK_DIE_AT"])
_count = 0


def step(name: str) -> None:
    global _count
    if not ARMED.exists():
        return
    _count += 1
    with ARMED.open("a") as log:
        log.write(f"{name}\n")
    if _count == DIE_AT:
        os.kill(os.getpid(), signal.SIGKILL)


def stepping(name: str) -> Callable[..., Any]:
    real = getattr(os, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        step(name)
        return real(*args, **kwargs)

    return call


def stepping_scripts() -> None:
    """Both sides of a script: what it did may outlive us or not have begun."""
    real = Script.run

    async def run(self: Script, *args: Any, **kwargs: Any) -> Any:
        step("script")
        answer = await real(self, *args, **kwargs)
        step("script ran")
        return answer

    Script.run = run  # type: ignore[method-assign]


if __name__ == "__main__":
    for each in ("fsync", "link", "replace", "unlink", "mkdir", "pwrite"):
        setattr(os, each, stepping(each))
    stepping_scripts()
    sys.exit(main())
