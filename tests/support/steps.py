"""What a process makes last, step by step, and its death before one of them.

Steps are counted while the file exists that `TK_ARMED` names, and written into it by
name; before step number `TK_DIE_AT` the process ends by SIGKILL. Between two steps
nothing changes that outlives a process, so dying before each of them, and after the
last, is dying at every point there is.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

WRITING: Final = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
# Python tells its auditors of these whoever calls them, and by which arguments.
_AUDITED: Final = {
    "os.rename": ("rename", 1),
    "os.link": ("link", 1),
    "os.remove": ("unlink", 0),
    "os.mkdir": ("mkdir", 0),
    "os.rmdir": ("rmdir", 0),
    "os.truncate": ("truncate", 0),
}
# Of these it does not.
_WRAPPED: Final = ("fsync", "fdatasync", "pwrite")
# What is another one in each life, and would hide that the step is the same.
_NAMES: Final = re.compile(r"(?<![0-9a-z])([0-9a-f]{2}/)?[0-9a-f-]{32,}|\b\d{19}\b")


class Steps:
    """Those of this process below one folder, and those that it reports itself."""

    def __init__(self, root: Path) -> None:
        self._root = str(root.resolve()) + "/"
        self._armed = os.environ.get("TK_ARMED", "")
        self._die_at = int(os.environ.get("TK_DIE_AT") or 0)
        self._count = 0
        self._lock = threading.Lock()
        self._inside = threading.local()

    def watch_disk(self) -> None:
        """From now on; for ever, as an auditor cannot be taken back."""
        sys.addaudithook(self._audit)
        for name in _WRAPPED:
            setattr(os, name, self._wrapped(name, getattr(os, name)))

    def take(self, name: str) -> None:
        """One step is about to be made."""
        if not self._armed or not os.path.exists(self._armed):
            return
        with self._lock:
            self._count += 1
            self._inside.here = True
            with open(self._armed, "a") as log:
                log.write(f"{name}\n")
            self._inside.here = False
            if self._count == self._die_at:
                os.kill(os.getpid(), signal.SIGKILL)

    def around(
        self, name: str, call: Callable[..., Awaitable[Any]]
    ) -> Callable[..., Awaitable[Any]]:
        """The call with a step on either side: what it did elsewhere may outlive us,
        or not have begun."""

        async def stepping(*args: Any, **kwargs: Any) -> Any:
            self.take(name)
            answer = await call(*args, **kwargs)
            self.take(f"{name} answered")
            return answer

        return stepping

    def _audit(self, event: str, args: tuple[Any, ...]) -> None:
        if getattr(self._inside, "here", False):
            return
        if event == "open":
            if args[2] & WRITING:
                self._on_disk("create", args[0])
        elif event in _AUDITED:
            verb, place = _AUDITED[event]
            self._on_disk(verb, args[place])

    def _wrapped(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(descriptor: Any, *args: Any) -> Any:
            self._on_disk(name, descriptor)
            return real(descriptor, *args)

        return call

    def _on_disk(self, verb: str, place: Any) -> None:
        if isinstance(place, int):
            try:
                place = os.readlink(f"/proc/self/fd/{place}")
            except OSError:
                return
            if place.endswith(" (deleted)"):
                return  # it ends with the process in any case
        elif hasattr(place, "fileno"):
            return self._on_disk(verb, place.fileno())
        path = os.fsdecode(place)
        # One without a root is below a folder that was opened before.
        if path.startswith("/"):
            if not (path + "/").startswith(self._root):
                return
            path = path.removeprefix(self._root.rstrip("/")).lstrip("/") or "."
        self.take(f"{verb} {_NAMES.sub('*', path)}")


def taken(armed: Path) -> list[str]:
    """The steps of a life so far."""
    return armed.read_text().split("\n")[:-1]
