"""The port: where uploads wait until they commit, are given up, or are too late."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, Protocol

from blake3 import blake3

from services.chassis.errors import Reason, ServiceError
from services.chassis.names import AgentName
from services.snapshots.upload import Chunk, Header, Upload

# As the contract says: long enough for a restart, a move or a bad hour of a network.
PAUSED_FOR: Final = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class PausedUpload:
    """What a client must know to go on."""

    agent: AgentName
    upload_id: str
    persisted_bytes: int
    expire_time: datetime


class Staged(Protocol):
    """One upload while one stream has it."""

    discarded: bool

    @property
    def path(self) -> Path:
        """All bytes so far, as a local file."""

    @property
    def size_bytes(self) -> int: ...

    @property
    def digest(self) -> blake3: ...

    async def take(self, upload: Upload, chunk: Chunk) -> None:
        """Checks the chunk and appends it; a fault leaves what was there."""


class Staging(Protocol):
    """All uploads that have not committed."""

    def opened(self, header: Header) -> AbstractAsyncContextManager[Staged]:
        """The upload for this stream alone; when it ends, kept unless discarded.

        Raises UPLOAD_BUSY, UPLOAD_REUSED.
        """

    async def find(self, agent: AgentName, upload_id: str) -> PausedUpload | None:
        """How far it got."""

    async def abort(self, agent: AgentName, upload_id: str) -> None:
        """Throws the upload away; absent is fine. Raises UPLOAD_BUSY."""

    async def expire(self) -> int:
        """Forgets uploads that nobody resumed in time; how many."""


def busy(upload_id: str) -> ServiceError:
    return ServiceError(
        Reason.UPLOAD_BUSY,
        f"cannot use upload {upload_id}: another stream has it; end that one or wait",
        upload_id=upload_id,
    )
