"""Uploads on their way in, each a file that only grows.

What is on disk decides: after a crash an upload is as long as its file. One process
owns the folder, so who is writing to an upload is known without a lock on disk.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from blake3 import blake3

from services.chassis.clock import Clock
from services.chassis.errors import Reason, ServiceError
from services.chassis.names import AgentName
from services.segments.disk import sync_folder, write_all
from services.snapshots.disk_work import disk_errors, in_thread, make_folder
from services.snapshots.upload import Body, Chunk, Header, Upload, check_reuse

# As the contract says: long enough for a restart, a move or a bad hour of a network.
PAUSED_FOR: Final = timedelta(hours=1)
_READ_BYTES: Final = 1 << 20
_WHAT: Final = "the upload"


@dataclass(frozen=True, slots=True)
class PausedUpload:
    """What a client must know to go on."""

    agent: AgentName
    upload_id: str
    persisted_bytes: int
    expire_time: datetime


@dataclass(slots=True)
class _Entry:
    agent: str
    body: str
    path: Path
    busy: bool = False


class Staged:
    """The bytes of one upload while one stream owns it; its methods block."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size_bytes = 0
        self.digest = blake3()
        self.discarded = False
        self._descriptor = -1
        self._sealed = False

    def open(self) -> None:
        """Takes up what earlier streams left, digested anew."""
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        with disk_errors(_WHAT):
            make_folder(self.path.parent)
            self._descriptor = os.open(self.path, flags, 0o600)
            while data := os.pread(self._descriptor, _READ_BYTES, self.size_bytes):
                self.digest.update(data)
                self.size_bytes += len(data)
            # A blob shares these bytes since a commit that was not finished.
            self._sealed = os.fstat(self._descriptor).st_nlink > 1

    def take(self, upload: Upload, chunk: Chunk) -> None:
        """Checks the chunk and appends it; a full disk leaves what was there."""
        upload.take(chunk)
        if self._sealed:
            upload.discard()
            raise ServiceError(
                Reason.DIGEST_MISMATCH,
                f"cannot add to an upload that a trailer closed at {self.size_bytes} "
                "bytes: send that trailer again, or all under a new id",
                size_bytes=self.size_bytes,
            )
        try:
            with disk_errors(_WHAT):
                write_all(self._descriptor, chunk.data, self.size_bytes)
        except ServiceError:
            os.ftruncate(self._descriptor, self.size_bytes)
            upload.pause()
            raise
        self.size_bytes += len(chunk.data)
        self.digest.update(chunk.data)

    def close(self) -> None:
        if self._descriptor < 0:
            return
        try:
            if self.discarded:
                self.path.unlink(missing_ok=True)
            else:
                with disk_errors(_WHAT):
                    os.utime(self._descriptor)
                    os.fsync(self._descriptor)
                    sync_folder(self.path.parent)
        finally:
            os.close(self._descriptor)
            self._descriptor = -1


class Staging:
    """All uploads that have not committed."""

    def __init__(self, root: Path, clock: Clock) -> None:
        self._root = root
        self._clock = clock
        self._entries: dict[tuple[str, str], _Entry] = {}
        for town, entry in _found(root):
            self._entries[town, entry.path.stem] = entry

    @asynccontextmanager
    async def opened(self, header: Header) -> AsyncIterator[Staged]:
        """The upload for this stream alone; when it ends, kept unless discarded.

        Raises UPLOAD_BUSY, UPLOAD_REUSED.
        """
        key = (header.agent.town, header.upload_id)
        entry = self._entries.get(key)
        if entry is None:
            folder = self._root / header.agent.town / header.agent.agent
            path = folder / f"{header.upload_id}.{header.body}"
            entry = _Entry(header.agent.agent, header.body, path)
        check_reuse(header, entry.agent, entry.body)
        _refuse_busy(entry, header.upload_id)
        self._entries[key] = entry
        entry.busy = True
        staged = Staged(entry.path)
        try:
            await in_thread(staged.open)
            yield staged
        finally:
            try:
                await in_thread(staged.close)
            finally:
                entry.busy = False
                if staged.discarded:
                    del self._entries[key]

    def find(self, agent: AgentName, upload_id: str) -> PausedUpload | None:
        entry = self._entries.get((agent.town, upload_id))
        if entry is None or entry.agent != agent.agent:
            return None
        with suppress(FileNotFoundError):
            found = entry.path.stat()
            touched = datetime.fromtimestamp(found.st_mtime, UTC)
            return PausedUpload(agent, upload_id, found.st_size, touched + PAUSED_FOR)
        return None

    async def abort(self, agent: AgentName, upload_id: str) -> None:
        """Throws the upload away; absent is fine. Raises UPLOAD_BUSY."""
        entry = self._entries.get((agent.town, upload_id))
        if entry is None or entry.agent != agent.agent:
            return
        _refuse_busy(entry, upload_id)
        del self._entries[agent.town, upload_id]
        with disk_errors(_WHAT):
            await in_thread(entry.path.unlink, missing_ok=True)

    async def expire(self) -> int:
        """Forgets uploads that nobody resumed in time; how many."""
        now = self._clock.now()
        late = [
            (AgentName(town, entry.agent), upload_id)
            for (town, upload_id), entry in self._entries.items()
            if not entry.busy and _touched(entry.path) + PAUSED_FOR <= now
        ]
        for agent, upload_id in late:
            with suppress(ServiceError):  # resumed this very moment
                await self.abort(agent, upload_id)
        return len(late)


def _found(root: Path) -> Iterator[tuple[str, _Entry]]:
    for path in root.glob("*/*/*"):
        body = path.suffix.removeprefix(".")
        if body in set(Body):
            yield path.parts[-3], _Entry(path.parts[-2], body, path)


def _touched(path: Path) -> datetime:
    try:
        return datetime.fromtimestamp(path.stat().st_mtime, UTC)
    except FileNotFoundError:
        return datetime.fromtimestamp(0, UTC)


def _refuse_busy(entry: _Entry, upload_id: str) -> None:
    if entry.busy:
        raise ServiceError(
            Reason.UPLOAD_BUSY,
            f"cannot use upload {upload_id}: another stream has it; end that one or "
            "wait",
            upload_id=upload_id,
        )
