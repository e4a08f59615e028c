"""The bytes of an upload on the local disk: a file that only grows."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from blake3 import blake3

from services.chassis.errors import Reason, ServiceError
from services.segments.disk import sync_folder, write_all
from services.snapshots.disk_work import (
    disk_errors,
    in_thread,
    make_folder,
    synced_or_gone,
)
from services.snapshots.upload import Chunk, Upload

WHAT: Final = "the upload"
_READ_BYTES: Final = 1 << 20


class StagedFile:
    """The bytes of one upload while one stream owns it; `open` and `close` block."""

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
        with disk_errors(WHAT):
            make_folder(self.path.parent)
            self._descriptor = os.open(self.path, flags, 0o600)
            while data := os.pread(self._descriptor, _READ_BYTES, self.size_bytes):
                self.digest.update(data)
                self.size_bytes += len(data)
            # A blob shares these bytes since a commit that was not finished.
            self._sealed = os.fstat(self._descriptor).st_nlink > 1

    async def take(self, upload: Upload, chunk: Chunk) -> None:
        """Checks the chunk and appends it; a full disk leaves what was there."""
        await in_thread(self._take, upload, chunk)

    def append(self, data: bytes) -> None:
        with disk_errors(WHAT):
            write_all(self._descriptor, data, self.size_bytes)
        self.size_bytes += len(data)
        self.digest.update(data)

    def _take(self, upload: Upload, chunk: Chunk) -> None:
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
            self.append(chunk.data)
        except ServiceError:
            os.ftruncate(self._descriptor, self.size_bytes)
            upload.pause()
            raise

    def close(self) -> None:
        if self._descriptor < 0:
            return
        try:
            if self.discarded:
                self.path.unlink(missing_ok=True)
            else:
                with disk_errors(WHAT):
                    os.utime(self._descriptor)
                    synced_or_gone(self._descriptor, self.path)
                    sync_folder(self.path.parent)
        finally:
            os.close(self._descriptor)
            self._descriptor = -1
