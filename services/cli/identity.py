"""A process named so that a reused pid is not mistaken for it, and its end.

Standard library only: the watcher, which outlives a killed `up`, runs on it.
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_LOOK_EVERY_S: Final = 0.02
# What is not dead by then is stuck in the kernel.
KILL_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Identity:
    """A process of this machine, also after its pid was given to another."""

    pid: int
    started_ticks: int  # since boot, field 22 of /proc/pid/stat
    boot_id: str

    @property
    def alive(self) -> bool:
        """True while this very process runs; a zombie does not run."""
        found = _stat(self.pid)
        return (
            found is not None
            and found[0] not in "ZX"
            and self == Identity(self.pid, found[1], boot_id())
        )

    def send(self, number: signal.Signals) -> bool:
        """Signals exactly this process; False when it is gone."""
        try:
            handle = os.pidfd_open(self.pid)
        except OSError:
            return False
        try:
            # Looked at through the handle's time: nobody else can get the pid now.
            if not self.alive:
                return False
            signal.pidfd_send_signal(handle, number)
        except (ProcessLookupError, PermissionError):
            return False
        finally:
            os.close(handle)
        return True

    def wait(self, limit_s: float) -> bool:
        """Whether it was gone within the time."""
        deadline = time.monotonic() + limit_s
        while self.alive:
            if time.monotonic() > deadline:
                return False
            time.sleep(_LOOK_EVERY_S)
        return True


@cache
def boot_id() -> str:
    """The kernel's name for this boot."""
    return _BOOT_ID.read_text("ascii").strip()


def identify(pid: int) -> Identity | None:
    """The process that has this pid now."""
    found = _stat(pid)
    return Identity(pid, found[1], boot_id()) if found else None


def identify_self() -> Identity:
    """This process."""
    found = identify(os.getpid())
    assert found is not None, "/proc shows every process to itself"
    return found


def descendants(roots: list[Identity]) -> list[Identity]:
    """The roots that live, and their living children and children's children."""
    parents = {pid: found[2] for pid in _pids() if (found := _stat(pid))}
    wanted = {root.pid for root in roots if root.alive}
    while more := {pid for pid, parent in parents.items() if parent in wanted} - wanted:
        wanted |= more
    return [one for pid in sorted(wanted) if (one := identify(pid)) and one.alive]


def marked(variable: str, value: str) -> list[Identity]:
    """Living processes of this user that were started with this variable."""
    wanted = f"{variable}={value}".encode()
    return [
        one
        for pid in _pids()
        if pid != os.getpid() and wanted in _environment(pid)
        if (one := identify(pid)) and one.alive
    ]


def kill_trees(roots: list[Identity]) -> list[Identity]:
    """Kills the roots and all below them; returns those that lived.

    Everybody is stopped first, round after round until nobody new is found: a stopped
    process cannot fork, so none is missed.
    """
    stopped: list[Identity] = []
    while new := [one for one in descendants(roots) if one not in stopped]:
        for one in new:
            one.send(signal.SIGSTOP)
        stopped += new
    for one in stopped:
        one.send(signal.SIGKILL)
    for one in stopped:
        one.wait(KILL_S)
    return stopped


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _stat(pid: int) -> tuple[str, int, int] | None:
    """State, start in ticks, parent; None when there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command stands in brackets and may hold spaces and brackets itself.
    fields = text[text.rindex(")") + 2 :].split()
    return fields[0], int(fields[19]), int(fields[1])


def _environment(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []  # gone, or another user's and so not ours
