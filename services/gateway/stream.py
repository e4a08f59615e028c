"""HTTP bodies ⇄ gRPC frames, a chunk at a time in both directions."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
import zlib
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import grpc.aio
from blake3 import blake3

from services.chassis.errors import Reason, ServiceError, rpc_errors
from townkeeper.snapshots.v1 import resources_pb2, snapshots_pb2_grpc
from townkeeper.snapshots.v1 import snapshots_pb2 as pb

# An upload holds some ten copies of a chunk on its way, from the socket to gRPC: with
# these, 100 at once take 190 MiB in all. Larger ones are hardly faster, cost more,
# and these are hashed in less time than a thread takes to be woken for it.
CHUNK_BYTES: Final = 64 * 1024
# A transfer lasts at most an hour; longer ones are taken up again by the client.
TRANSFER_TIMEOUT_S: Final = 3600.0
ABORT_TIMEOUT_S: Final = 5.0
ABORT_PAUSE_S: Final = 0.1

Body: TypeAlias = AsyncIterator[bytes]
Metadata: TypeAlias = tuple[tuple[str, str], ...]
# Quoted: only type stubs know these, or that they are generic.
Stub: TypeAlias = "snapshots_pb2_grpc.SnapshotServiceAsyncStub"
SendingCall: TypeAlias = (
    "grpc.aio.StreamUnaryCall[pb.UploadSnapshotRequest, pb.UploadSnapshotResponse]"
)
ReceivingCall: TypeAlias = (
    "grpc.aio.UnaryStreamCall[pb.DownloadSnapshotRequest, pb.DownloadSnapshotResponse]"
)


@dataclass(frozen=True, slots=True)
class UploadTerms:
    """Which agent a file is for, and what must hold for it to commit."""

    agent: str
    epoch: int | None = None
    expected: int | None = None
    upload_id: str = field(default_factory=lambda: str(uuid.uuid4()))

    def header(self) -> pb.UploadHeader:
        return pb.UploadHeader(
            parent=self.agent,
            upload_id=self.upload_id,
            body=pb.UploadHeader.BODY_FILE,
            epoch=self.epoch,
            if_generation_match=self.expected,
        )


class Upload:
    """One whole file on its way in; commits when the body has ended, not before."""

    def __init__(self, stub: Stub, metadata: Metadata, terms: UploadTerms) -> None:
        self._stub = stub
        self._metadata = metadata
        self._terms = terms
        self._sealed = False

    async def run(self, body: Body) -> resources_pb2.Snapshot:
        call = self._stub.UploadSnapshot(
            metadata=self._metadata, timeout=TRANSFER_TIMEOUT_S
        )
        try:
            with rpc_errors():
                # A service that has refused takes no more frames: its answer says why.
                with contextlib.suppress(
                    asyncio.InvalidStateError, grpc.aio.InternalError
                ):
                    await self._send(call, body)
                reply = await call
        except BaseException:
            call.cancel()
            await self._abort()
            raise
        if reply.WhichOneof("outcome") != "snapshot":
            raise ServiceError(
                Reason.SERVICE_UNAVAILABLE, "cannot commit: the upload was cut; repeat"
            )
        return reply.snapshot

    async def _send(self, call: SendingCall, body: Body) -> None:
        await call.write(pb.UploadSnapshotRequest(header=self._terms.header()))
        digest, offset = blake3(), 0
        async for data in in_chunks(body):
            crc32 = _digest(digest, data)
            chunk = pb.Chunk(offset=offset, data=data, crc32=crc32)
            await call.write(pb.UploadSnapshotRequest(chunk=chunk))
            offset += len(data)
        self._sealed = True
        trailer = pb.UploadTrailer(size_bytes=offset, blake3=digest.digest())
        await call.write(pb.UploadSnapshotRequest(trailer=trailer))
        await call.done_writing()

    async def _abort(self) -> None:
        """Has the service forget a cut upload, which it would keep for an hour."""
        if self._sealed:
            return
        request = pb.AbortUploadRequest(
            parent=self._terms.agent, upload_id=self._terms.upload_id
        )
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ABORT_TIMEOUT_S):
                while not await self._aborted(request):
                    await asyncio.sleep(ABORT_PAUSE_S)

    async def _aborted(self, request: pb.AbortUploadRequest) -> bool:
        try:
            with rpc_errors():
                await self._stub.AbortUpload(
                    request, metadata=self._metadata, timeout=ABORT_TIMEOUT_S
                )
        except ServiceError as error:
            # Busy until the service has noticed that the stream was cut. In all other
            # cases it forgets the upload by itself, only later.
            return error.reason is not Reason.UPLOAD_BUSY
        return True


async def in_chunks(body: Body) -> AsyncIterator[bytes]:
    """The same bytes in frames' sizes: all of CHUNK_BYTES but the last."""
    buffer = bytearray()
    async for data in body:
        buffer += data
        while len(buffer) >= CHUNK_BYTES:
            yield bytes(memoryview(buffer)[:CHUNK_BYTES])
            del buffer[:CHUNK_BYTES]
    if buffer:
        yield bytes(buffer)


def _digest(digest: blake3, data: bytes) -> int:
    digest.update(data)
    return zlib.crc32(data)


class Download:
    """Bytes of a file on their way out. Open it, iterate it once, close it."""

    def __init__(
        self,
        stub: Stub,
        metadata: Metadata,
        request: pb.DownloadSnapshotRequest,
        size_bytes: int,
    ) -> None:
        self._offset = request.offset
        self._size_bytes = size_bytes
        self._received = 0
        self._digest = blake3()
        self._first = b""
        self._call: ReceivingCall = stub.DownloadSnapshot(
            request, metadata=metadata, timeout=TRANSFER_TIMEOUT_S
        )

    async def open(self) -> None:
        """Waits for the first bytes, so that most refusals come before any is sent."""
        frame = await self._next()
        if frame.WhichOneof("frame") != "header":
            raise _cut("it did not begin with a header")
        self._first = await self._more()

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """The bytes; the last of them only once the trailer has proven all."""
        data, self._first = self._first, b""
        while data:
            # In pieces, so that a slow client keeps one frame of ours, not three.
            for start in range(0, len(data), CHUNK_BYTES):
                yield data[start : start + CHUNK_BYTES]
            data = b""  # not kept while the next comes
            if self._received != self._size_bytes:
                data = await self._more()

    async def _more(self) -> bytes:
        """The next bytes. With the last ones, the trailer has come and proven all."""
        data = self._take((await self._next()).chunk)
        if self._received == self._size_bytes:
            last = await self._next()
            self._prove(last.trailer)
        return data

    async def _next(self) -> pb.DownloadSnapshotResponse:
        # Iterating the call would keep each frame until the next one is asked for.
        with rpc_errors():
            frame = await self._call.read()
        if not isinstance(frame, pb.DownloadSnapshotResponse):
            raise _cut("it ended before its trailer")
        return frame

    def close(self) -> None:
        self._call.cancel()

    def _take(self, chunk: pb.Chunk) -> bytes:
        """The data of a chunk that was due; a frame of another kind is none."""
        data = chunk.data
        due = self._offset + self._received
        if not data or chunk.offset != due:
            raise _cut("a chunk is not the one that was due")
        if _digest(self._digest, data) != chunk.crc32:
            raise _cut("a chunk does not match its checksum")
        self._received += len(data)
        return data

    def _prove(self, trailer: pb.DownloadTrailer) -> None:
        whole = trailer.size_bytes == self._received
        if not whole or trailer.blake3 != self._digest.digest():
            raise _cut("its bytes fail their digest")


def _cut(why: str) -> ServiceError:
    return ServiceError(
        Reason.SNAPSHOT_CORRUPT, f"cannot finish the download, {why}: repeat it"
    )
