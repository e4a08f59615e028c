"""Uploads on their way in to a store that several replicas share.

A stream's bytes are on the local disk of the replica that has it, and go to the store
in parts as they come, at the latest when the stream ends. A ledger says which parts
count and which stream has the upload, so any replica takes it up where it stands.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final, Protocol

from services.chassis.errors import ServiceError
from services.chassis.names import AgentName
from services.segments.disk import read_all
from services.snapshots import records
from services.snapshots.disk_work import disk_errors, in_thread, to_the_end
from services.snapshots.renewal import renewing
from services.snapshots.staged_file import WHAT, StagedFile
from services.snapshots.staging import PausedUpload, busy
from services.snapshots.store import BlobMissing, BlobStore
from services.snapshots.upload import Chunk, Header, Upload

# A replica that dies loses less than this of an upload; smaller ones need no part.
PART_BYTES: Final = 8 << 20
# A stream whose replica says nothing for so long has lost its upload to whoever asks.
HOLD_S: Final = 10.0
_PARTS_AT_ONCE: Final = 4
_STAGING: Final = "staging"


@dataclass(slots=True)
class Hold:
    """An upload that one stream has."""

    agent: AgentName
    upload_id: str
    # Nobody else's: of this stream, and of this upload from its first byte on.
    holder: str
    folder: str
    parts: list[str] = field(default_factory=list)

    def key(self, part: str) -> str:
        return f"{_STAGING}/{self.agent.town}/{self.upload_id}/{self.folder}/{part}"


class UploadLedger(Protocol):
    """What all replicas know of uploads; forgets those that nobody came back for."""

    async def open(self, header: Header) -> Hold:
        """Takes the upload for a stream. Raises UPLOAD_BUSY, UPLOAD_REUSED."""

    async def note(self, hold: Hold, part: str = "", size_bytes: int = 0) -> bool:
        """Goes on holding it, with a part more if one is given; False if it is lost."""

    async def close(self, hold: Hold, *, discarded: bool) -> bool:
        """Lets it go; False, and nothing, if it is somebody else's by now."""

    async def find(self, agent: AgentName, upload_id: str) -> PausedUpload | None: ...

    async def abort(self, agent: AgentName, upload_id: str) -> str:
        """Forgets it, and says where its parts are. Raises UPLOAD_BUSY."""

    async def folder(self, town: str, upload_id: str) -> str:
        """Where its parts are; empty if it is not known."""


class SharedStaged(StagedFile):
    """One upload while one stream has it; `path` is this replica's copy."""

    def __init__(self, path: Path, hold: Hold, staging: SharedStaging) -> None:
        super().__init__(path)
        self._hold = hold
        self._staging = staging
        self._sent_bytes = 0

    async def fill(self) -> None:
        """Fetches what earlier streams left, as far as it is whole."""
        await in_thread(self.open)
        for part in self._hold.parts:
            if int(part.partition("-")[0]) != self.size_bytes:
                return
            data = await self._staging.fetch(self._hold, part)
            if data is None:
                return
            await in_thread(self.append, data)
            self._sent_bytes = self.size_bytes

    async def take(self, upload: Upload, chunk: Chunk) -> None:
        await super().take(upload, chunk)
        if self.size_bytes - self._sent_bytes >= PART_BYTES:
            await self.send()

    async def send(self) -> None:
        """Puts what the store has not yet into it. Raises UPLOAD_BUSY if another
        stream took the upload meanwhile."""
        size_bytes = self.size_bytes - self._sent_bytes
        if size_bytes:
            part = f"{self._sent_bytes}-{uuid.uuid4().hex}"
            await self._staging.send(self._hold, part, self)
            self._sent_bytes = self.size_bytes

    def unsent(self) -> bytes:
        with disk_errors(WHAT):
            length = self.size_bytes - self._sent_bytes
            return read_all(self._descriptor, length, self._sent_bytes)


class SharedStaging:
    """A Staging over a store and a ledger that all replicas share."""

    def __init__(
        self,
        blobs: BlobStore,
        ledger: UploadLedger,
        scratch: Callable[[], Path],
        *,
        renew_every_s: float = HOLD_S / 4,
    ) -> None:
        self._blobs = blobs
        self._ledger = ledger
        self._scratch = scratch
        self._renew_every_s = renew_every_s
        # Parts pass through memory.
        self._turns = asyncio.Semaphore(_PARTS_AT_ONCE)

    @asynccontextmanager
    async def opened(self, header: Header) -> AsyncIterator[SharedStaged]:
        hold = await self._ledger.open(header)
        staged = SharedStaged(self._scratch(), hold, self)
        async with renewing(partial(self._ledger.note, hold), self._renew_every_s):
            try:
                await staged.fill()
                yield staged
            finally:
                await to_the_end(self._leave(staged, hold))

    async def find(self, agent: AgentName, upload_id: str) -> PausedUpload | None:
        return await self._ledger.find(agent, upload_id)

    async def abort(self, agent: AgentName, upload_id: str) -> None:
        folder = await self._ledger.abort(agent, upload_id)
        if folder:
            await self._remove(agent.town, upload_id, folder)

    async def expire(self) -> int:
        """Removes parts of uploads that the ledger does not know any more."""
        expired = 0
        for town in records.ids(await self._blobs.list(_STAGING)):
            for upload_id in await self._blobs.list(f"{_STAGING}/{town}"):
                # First the folders, then the ledger, where an upload is before it has
                # a folder: what is unknown then is nobody's.
                folders = await self._blobs.list(f"{_STAGING}/{town}/{upload_id}")
                known = await self._ledger.folder(town, upload_id)
                for folder in folders:
                    if folder != known:
                        await self._remove(town, upload_id, folder)
                        expired += 1
        return expired

    async def fetch(self, hold: Hold, part: str) -> bytes | None:
        """None if the part is gone: the client sends on from where it began."""
        async with self._turns:
            try:
                return await self._blobs.read(hold.key(part))
            except BlobMissing:
                return None

    async def send(self, hold: Hold, part: str, staged: SharedStaged) -> None:
        async with self._turns:
            await self._blobs.create(hold.key(part), await in_thread(staged.unsent))
        if not await self._ledger.note(hold, part, staged.size_bytes):
            raise busy(hold.upload_id)

    async def _leave(self, staged: SharedStaged, hold: Hold) -> None:
        try:
            with suppress(ServiceError):
                # What cannot be kept now was not promised: the ledger has the truth.
                if not staged.discarded:
                    await staged.send()
            with suppress(ServiceError):  # then it ends by itself
                ours = await self._ledger.close(hold, discarded=staged.discarded)
                if ours and staged.discarded:
                    await self._remove(hold.agent.town, hold.upload_id, hold.folder)
        finally:
            staged.discarded = True  # the copy, whatever becomes of the upload
            await in_thread(staged.close)

    async def _remove(self, town: str, upload_id: str, folder: str) -> None:
        prefix = f"{_STAGING}/{town}/{upload_id}/{folder}"
        for part in await self._blobs.list(prefix):
            await self._blobs.delete(f"{prefix}/{part}")
