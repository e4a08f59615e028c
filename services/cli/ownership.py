"""One `up` for each data directory, and the end of what a killed one left behind.

The lock is held by `up` and by its watcher, which shares the descriptor: while either
lives, the children may live. Nothing is killed that is not proven to be ours.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Final

from services.cli.identity import Identity, identify_self, kill_trees, marked
from services.cli.layout import DataDir, write_json
from services.cli.problems import Problem

# In each child's environment: proof that it is ours, even before it was written down.
MARK_VARIABLE: Final = "TOWNKEEPER_PLANE"
# Who stops first needs those who stop later: the supervisor saves to the others.
STOP_ORDER: Final = ("supervisor", "gateway", "snapshots", "registry", "valkey")
# Agents get 10 s to end and their last state is saved; a gigabyte takes its time.
SUPERVISOR_STOP_S: Final = 60.0
SERVICE_STOP_S: Final = 20.0
_LOOK_EVERY_S: Final = 0.05
# All of the above, one after the other, and some air.
_WATCHER_S: Final = SUPERVISOR_STOP_S + 4 * SERVICE_STOP_S + 10.0


def stop_limit_s(name: str) -> float:
    """How long a child may take to end well."""
    return SUPERVISOR_STOP_S if name == "supervisor" else SERVICE_STOP_S


@dataclass(slots=True)
class Record:
    """The children of one `up`, as written to `D/plane/children.json`."""

    path: Path
    mark: str
    lock: str  # device and inode of the lock file: a copied directory proves nothing
    children: dict[str, Identity] = field(default_factory=dict)

    @classmethod
    def read(cls, data: DataDir) -> Record | None:
        """What the last `up` of this directory wrote; None when it left nothing."""
        try:
            entry = json.loads(data.children.read_bytes())
            children = {
                str(name): Identity(*one) for name, one in entry["children"].items()
            }
            record = cls(data.children, entry["mark"], entry["lock"], children)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        return record if record.lock == _file_id(data.lock) else None

    def write(self) -> None:
        children = {name: astuple(one) for name, one in self.children.items()}
        content = {"mark": self.mark, "lock": self.lock, "children": children}
        write_json(self.path, content)

    def add(self, name: str, identity: Identity) -> None:
        self.children[name] = identity
        self.write()

    def remove(self, name: str) -> None:
        if self.children.pop(name, None):
            self.write()

    def end_all(self) -> list[str]:
        """Ends what still lives, in order; returns the names of those that did."""
        ended = []
        for name in STOP_ORDER:
            child = self.children.get(name)
            if child is None or not child.send(signal.SIGTERM):
                continue
            ended.append(name)
            if not child.wait(stop_limit_s(name)):
                kill_trees([child])
        if kill_trees(marked(MARK_VARIABLE, self.mark)):
            ended.append("others")
        self.children.clear()
        self.path.unlink(missing_ok=True)
        return ended


class Lock:
    """`D/plane/up.lock`, held from `take` to the end of the process and its watcher."""

    def __init__(self, data: DataDir) -> None:
        self._data = data
        self.descriptor = -1

    @property
    def held(self) -> bool:
        return self.descriptor >= 0

    async def take(self, notice: Callable[[str], None]) -> None:
        """Waits for the watcher of a killed `up`; a live `up` is a Problem."""
        descriptor = os.open(self._data.lock, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            await self._wait_for(descriptor, notice)
            content = json.dumps({"owner": astuple(identify_self())}).encode()
            os.pwrite(descriptor, content, 0)
            os.ftruncate(descriptor, len(content))
        except BaseException:
            os.close(descriptor)
            raise
        self.descriptor = descriptor

    def new_record(self, mark: str) -> Record:
        """An empty record of children, on disk before there is any child."""
        record = Record(self._data.children, mark, _file_id(self._data.lock))
        record.write()
        return record

    def release(self) -> None:
        if self.held:
            os.close(self.descriptor)
            self.descriptor = -1

    async def _wait_for(self, descriptor: int, notice: Callable[[str], None]) -> None:
        deadline = time.monotonic() + _WATCHER_S
        told = False
        while not _try_lock(descriptor):
            owner = _read_owner(descriptor)
            if (owner and owner.alive) or time.monotonic() > deadline:
                raise self._taken(owner)
            if not told:
                notice("waiting for what an earlier `up` left to end")
                told = True
            await asyncio.sleep(_LOOK_EVERY_S)

    def _taken(self, owner: Identity | None) -> Problem:
        who = f" (process {owner.pid})" if owner else ""
        return Problem(
            f"cannot use {self._data.root}: another `townkeeper up`{who} uses it; "
            "stop that one or choose another --data-dir"
        )


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read_owner(descriptor: int) -> Identity | None:
    try:
        return Identity(*json.loads(os.pread(descriptor, 4096, 0))["owner"])
    except (ValueError, KeyError, TypeError):
        return None


def _file_id(path: Path) -> str:
    try:
        about = path.stat()
    except FileNotFoundError:
        return ""
    return f"{about.st_dev}:{about.st_ino}"
