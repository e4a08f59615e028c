"""The snapshot service, as the supervisor uses it: fence, upload, download."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import grpc.aio
from blake3 import blake3

from services.chassis.channels import TokenSource, open_channel
from services.chassis.errors import Reason, ServiceError, rpc_errors
from services.chassis.names import AgentName
from services.chassis.tls import TlsSettings
from services.supervisor.specs import Identity
from townkeeper.snapshots.v1 import resources_pb2, snapshots_pb2_grpc
from townkeeper.snapshots.v1 import snapshots_pb2 as pb

# A quarter of gRPC's default 4 MiB message limit.
CHUNK_BYTES: Final = 1 << 20
# What gRPC keeps of a download while the disk is busy, beside our own chunks ahead.
READ_AHEAD_BYTES: Final = CHUNK_BYTES
# How long one stream may take: 10 GB at 30 MB/s, with room.
STREAM_TIMEOUT_S: Final = 900.0


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment of a generation, as stored."""

    blake3: bytes
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Generation:
    """A saved state, as far as the supervisor cares."""

    number: int
    opaque: bool
    segments: tuple[Segment, ...]
    fingerprint: bytes
    page_size: int
    page_count: int
    runtime: str
    runtime_version: str
    session_id: str
    upload_id: str
    saved_at: datetime


@dataclass(frozen=True, slots=True)
class Segmented:
    """A segment on disk, on its way to be the next generation."""

    upload_id: str
    path: Path
    fingerprint: bytes
    parent: int  # the generation that must be the head; 0: none
    epoch: int
    runtime: str
    runtime_version: str
    session_id: str


class SnapshotsClient:
    """One supervisor's view of the snapshot service. Calls raise ServiceError."""

    def __init__(
        self,
        address: str,
        token: TokenSource,
        identity: Identity,
        tls: TlsSettings | None = None,
    ) -> None:
        self._identity = identity
        self._channel: grpc.aio.Channel = open_channel(
            address, token, tls=tls, read_ahead_bytes=READ_AHEAD_BYTES
        )
        self._stub: snapshots_pb2_grpc.SnapshotServiceAsyncStub = (
            snapshots_pb2_grpc.SnapshotServiceStub(self._channel)
        )

    async def close(self) -> None:
        await self._channel.close()

    async def advance(
        self, name: AgentName, epoch: int
    ) -> tuple[Generation | None, int]:
        """Fences every earlier owner; returns the head, None when there is none, and
        the number of the newest generation that ever was."""
        request = pb.AdvanceEpochRequest(
            name=str(name),
            epoch=epoch,
            instance=self._identity.instance,
            boot_id=self._identity.boot_id,
        )
        with rpc_errors():
            reply = await self._stub.AdvanceEpoch(request)
        head = _generation(reply.head) if reply.HasField("head") else None
        return head, reply.generation

    async def older(self, name: AgentName, than: int) -> list[Generation]:
        """The generations before one, newest first."""
        request = pb.ListSnapshotsRequest(parent=str(name), page_size=500)
        with rpc_errors():
            reply = await self._stub.ListSnapshots(request)
        found = [_generation(snapshot) for snapshot in reply.snapshots]
        return [one for one in found if one.number < than and not one.opaque]

    async def get(self, name: AgentName, number: int) -> Generation:
        """One generation. Raises SNAPSHOT_NOT_FOUND, of a deleted one as well."""
        request = pb.GetSnapshotRequest(name=f"{name}/snapshots/{number}")
        with rpc_errors():
            reply = await self._stub.GetSnapshot(request)
        if reply.snapshot.HasField("delete_time"):
            raise ServiceError(
                Reason.SNAPSHOT_NOT_FOUND,
                f"cannot use {request.name}, it is deleted: undelete it first",
                name=request.name,
            )
        return _generation(reply.snapshot)

    async def upload(self, name: AgentName, segmented: Segmented) -> Generation:
        """Commits a segment. Repeating the same upload is one generation; after a
        cut it goes on where the service says."""
        try:
            return await self._upload(name, segmented, 0)
        except ServiceError as error:
            if error.reason is not Reason.OFFSET_MISMATCH:
                raise
            offset = int(error.metadata.get("persisted_size_bytes", 0))
            return await self._upload(name, segmented, offset)

    async def _upload(
        self, name: AgentName, segmented: Segmented, offset: int
    ) -> Generation:
        header = pb.UploadHeader(
            parent=str(name),
            upload_id=segmented.upload_id,
            body=pb.UploadHeader.BODY_SEGMENT,
            write_offset=offset,
            epoch=segmented.epoch,
            instance=self._identity.instance,
            boot_id=self._identity.boot_id,
            if_generation_match=segmented.parent,
            runtime=segmented.runtime,
            runtime_version=segmented.runtime_version,
            session_id=segmented.session_id,
        )
        frames = _upload_frames(header, segmented, offset)
        with rpc_errors():
            reply = await self._stub.UploadSnapshot(frames, timeout=STREAM_TIMEOUT_S)
        if reply.WhichOneof("outcome") != "snapshot":
            raise ServiceError(
                Reason.STORE_UNAVAILABLE,
                "cannot commit: the upload was cut; it is tried again",
            )
        return _generation(reply.snapshot)

    async def download(
        self, name: AgentName, generation: Generation
    ) -> AsyncIterator[bytes]:
        """The segments of a generation as stored, base first, one after the other.

        Raises STORE_UNAVAILABLE with the metadata `compacted` if it reads as others by
        now. Nothing is proven here: every byte of a segment is bound by the digests in
        it, and by the one in the record.
        """
        request = pb.DownloadSnapshotRequest(
            name=f"{name}/snapshots/{generation.number}",
            content=pb.DownloadSnapshotRequest.CONTENT_SEGMENTS,
        )
        with rpc_errors():
            async for reply in self._stub.DownloadSnapshot(
                request, timeout=STREAM_TIMEOUT_S
            ):
                match reply.WhichOneof("frame"):
                    case "header":
                        _refuse_another_chain(generation, reply.header)
                    case "chunk":
                        yield reply.chunk.data


async def _upload_frames(
    header: pb.UploadHeader, segmented: Segmented, offset: int
) -> AsyncIterator[pb.UploadSnapshotRequest]:
    yield pb.UploadSnapshotRequest(header=header)
    digest, position = blake3(), 0
    with await asyncio.to_thread(segmented.path.open, "rb") as source:
        while data := await asyncio.to_thread(source.read, CHUNK_BYTES):
            digest.update(data)
            begin, position = position, position + len(data)
            if position <= offset:
                continue
            unsent = data[max(0, offset - begin) :]
            chunk = pb.Chunk(
                offset=position - len(unsent), data=unsent, crc32=zlib.crc32(unsent)
            )
            yield pb.UploadSnapshotRequest(chunk=chunk)
    trailer = pb.UploadTrailer(
        size_bytes=position,
        blake3=digest.digest(),
        fingerprint=segmented.fingerprint,
    )
    yield pb.UploadSnapshotRequest(trailer=trailer)


def _refuse_another_chain(
    generation: Generation, header: resources_pb2.Snapshot
) -> None:
    if _generation(header).segments != generation.segments:
        raise ServiceError(
            Reason.STORE_UNAVAILABLE,
            f"cannot read generation {generation.number} as it was: its chain was "
            "compacted since; look it up again",
            compacted=generation.number,
        )


def _generation(snapshot: resources_pb2.Snapshot) -> Generation:
    return Generation(
        number=snapshot.generation,
        opaque=snapshot.format != resources_pb2.FORMAT_PAGES,
        segments=tuple(
            Segment(segment.blake3, segment.size_bytes) for segment in snapshot.segments
        ),
        fingerprint=snapshot.fingerprint,
        page_size=snapshot.page_size_bytes,
        page_count=snapshot.page_count,
        runtime=snapshot.runtime,
        runtime_version=snapshot.runtime_version,
        session_id=snapshot.session_id,
        upload_id=snapshot.upload_id,
        saved_at=snapshot.create_time.ToDatetime(tzinfo=UTC),
    )
