"""Uploads on their way in, each a file that only grows.

What is on disk decides: after a crash an upload is as long as its file. One process
owns the folder, so who is writing to an upload is known without a lock on disk.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from services.chassis.clock import Clock
from services.chassis.errors import ServiceError
from services.chassis.names import AgentName
from services.snapshots.disk_work import disk_errors, in_thread
from services.snapshots.staged_file import WHAT, StagedFile
from services.snapshots.staging import PAUSED_FOR, PausedUpload, busy
from services.snapshots.upload import Body, Header, check_reuse


@dataclass(slots=True)
class _Entry:
    agent: str
    body: str
    path: Path
    busy: bool = False


class FileStaging:
    """All uploads that have not committed."""

    def __init__(self, root: Path, clock: Clock) -> None:
        self._root = root
        self._clock = clock
        self._entries: dict[tuple[str, str], _Entry] = {}
        for town, entry in _found(root):
            self._entries[town, entry.path.stem] = entry

    @asynccontextmanager
    async def opened(self, header: Header) -> AsyncIterator[StagedFile]:
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
        staged = StagedFile(entry.path)
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

    async def find(self, agent: AgentName, upload_id: str) -> PausedUpload | None:
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
        with disk_errors(WHAT):
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
        raise busy(upload_id)
