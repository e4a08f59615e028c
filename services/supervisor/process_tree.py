"""Who belongs to a run, read from /proc; signals nobody.

A run's processes are found by three marks, because a child can shed any one of them:
the chain of parents, the session or group of a member, and `TOWNKEEPER_RUN` in the
environment, which survives a double fork, `setsid` and a daemon.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

RUN_MARK = "TOWNKEEPER_RUN"

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_LOAD = Path("/proc/loadavg")  # its last number is the newest pid


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """A process named so that a reused pid is not mistaken for it."""

    pid: int
    started_ticks: int  # since boot, field 22 of /proc/pid/stat
    boot_id: str

    def alive(self) -> bool:
        """True while this very process runs; a zombie does not run."""
        entry = read_process(self.pid)
        return entry is not None and self == entry.identity and not entry.dead


@dataclass(frozen=True, slots=True)
class Process:
    """One line of the process table."""

    identity: ProcessIdentity
    state: str
    parent: int
    group: int
    session: int
    threads: int

    @property
    def pid(self) -> int:
        return self.identity.pid

    @property
    def dead(self) -> bool:
        """A zombie; one whose other threads still run is not dead."""
        return self.state in "ZX" and self.threads <= 1


@cache
def boot_id() -> str:
    """The kernel's name for this boot."""
    return _BOOT_ID.read_text().strip()


def identify(pid: int) -> ProcessIdentity | None:
    """The identity of a process that exists now, zombies included."""
    entry = read_process(pid)
    return entry.identity if entry else None


def read_process(pid: int) -> Process | None:
    """One process; None when there is none of this pid."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command stands in brackets and may hold spaces and brackets itself.
    fields = text[text.rindex(")") + 2 :].split()
    return Process(
        identity=ProcessIdentity(pid, int(fields[19]), boot_id()),
        state=fields[0],
        parent=int(fields[1]),
        group=int(fields[2]),
        session=int(fields[3]),
        threads=int(fields[17]),
    )


def table() -> dict[int, Process]:
    """Every process that can be seen, by pid."""
    entries = (
        read_process(int(name)) for name in os.listdir("/proc") if name.isdigit()
    )
    return {entry.pid: entry for entry in entries if entry}


def mark_of(pid: int) -> str | None:
    """The run that a process was started in; None for a stranger or a zombie."""
    return variable_of(pid, RUN_MARK)


def variable_of(pid: int, name: str) -> str | None:
    """A variable that a process was started with; None where it cannot be read."""
    try:
        environ = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return None  # gone, or of another user and so not one of ours
    prefix = name.encode() + b"="
    for variable in environ.split(b"\0"):
        if variable.startswith(prefix):
            return variable[len(prefix) :].decode(errors="replace")
    return None


def members(
    runs: Iterable[str], roots: Iterable[ProcessIdentity] = ()
) -> list[ProcessIdentity]:
    """The living processes of these runs and roots, descendants included.

    A root that is a zombie still counts for its session: nobody else can have its pid.
    One that was reaped counts for nothing, only its run's mark is left.
    """
    processes = table()
    wanted = set(runs)
    spared = _ancestors(os.getpid(), processes)
    marked = {pid for pid in processes if wanted and mark_of(pid) in wanted}
    found = (marked | _rooted(roots, processes)) - spared
    while more := set(_related(found, processes)) - found - spared:
        found |= more
    alive = (processes[pid] for pid in sorted(found))
    return [process.identity for process in alive if not process.dead]


def newest_member(runs: Iterable[str]) -> ProcessIdentity | None:
    """The process that was made last, if it carries one of these marks.

    A chain whose links each fork and end at once is never in a whole search: what the
    list names is gone before it is looked at. Here the look follows at once.
    """
    pid = int(_LOAD.read_text().split()[-1])
    return identify(pid) if mark_of(pid) in set(runs) else None


def _rooted(
    roots: Iterable[ProcessIdentity], processes: Mapping[int, Process]
) -> set[int]:
    """The roots that exist, and who stands in a session or group of theirs."""
    found = set()
    for root in roots:
        entry = processes.get(root.pid)
        if entry and entry.identity == root:
            found.add(root.pid)
            found |= {
                pid
                for pid, other in processes.items()
                if root.pid in (other.session, other.group)
            }
    return found


def _related(found: set[int], processes: Mapping[int, Process]) -> Iterator[int]:
    ours = processes[os.getpid()].session if os.getpid() in processes else 0
    sessions = {processes[pid].session for pid in found} - {ours, 0}
    for pid, process in processes.items():
        if process.parent in found or process.session in sessions:
            yield pid


def _ancestors(pid: int, processes: Mapping[int, Process]) -> set[int]:
    found = {0, 1}
    while pid not in found:
        found.add(pid)
        pid = processes[pid].parent if pid in processes else 0
    return found
