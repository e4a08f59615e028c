"""An upload as frames, and what a client of the snapshot service says around it."""

from __future__ import annotations

import uuid
import zlib
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from blake3 import blake3

from tests.support.tokens import AGENT, TOWN
from townkeeper.snapshots.v1 import snapshots_pb2 as pb
from townkeeper.snapshots.v1 import snapshots_pb2_grpc
from townkeeper.snapshots.v1.resources_pb2 import Snapshot

NAME = f"towns/{TOWN}/agents/{AGENT}"
INSTANCE = f"towns/{TOWN}/instances/container-1"
OTHER_INSTANCE = f"towns/{TOWN}/instances/container-2"
BOOT = "boot-1"
CHUNK_BYTES = 1 << 20

Frame = pb.UploadSnapshotRequest


def header(**changes: Any) -> Frame:
    """The header of a segment on top of nothing, changed as asked; None leaves out."""
    fields = {
        "parent": NAME,
        "upload_id": str(uuid.uuid4()),
        "body": pb.UploadHeader.BODY_SEGMENT,
        "epoch": 1,
        "instance": INSTANCE,
        "boot_id": BOOT,
        "if_generation_match": 0,
        **changes,
    }
    given = {key: value for key, value in fields.items() if value is not None}
    return Frame(header=pb.UploadHeader(**given))


def file_header(**changes: Any) -> Frame:
    """The header of a whole file, as the gateway sends it without an epoch."""
    plain = {"epoch": None, "instance": "", "boot_id": "", "if_generation_match": None}
    return header(**{"body": pb.UploadHeader.BODY_FILE, **plain, **changes})


def chunk(data: bytes, offset: int = 0, **changes: Any) -> Frame:
    fields = {"offset": offset, "data": data, "crc32": zlib.crc32(data), **changes}
    return Frame(chunk=pb.Chunk(**fields))


def chunks(data: bytes, start: int = 0, size: int = CHUNK_BYTES) -> Iterator[Frame]:
    for offset in range(start, len(data), size):
        yield chunk(data[offset : offset + size], offset)


def trailer(data: bytes, fingerprint: bytes = b"", **changes: Any) -> Frame:
    digest = blake3(data).digest()
    fields = {"size_bytes": len(data), "blake3": digest, "fingerprint": fingerprint}
    return Frame(trailer=pb.UploadTrailer(**{**fields, **changes}))


async def streamed(frames: Iterable[Frame]) -> AsyncIterator[Frame]:
    for frame in frames:
        yield frame


@dataclass
class Download:
    """What a download stream held."""

    header: Snapshot | None = None
    chunks: list[pb.Chunk] = field(default_factory=list)
    trailer: pb.DownloadTrailer | None = None

    @property
    def data(self) -> bytes:
        return b"".join(part.data for part in self.chunks)


class Client:
    """The calls of a supervisor, as few words as tests need."""

    def __init__(self, channel: Any, name: str = NAME) -> None:
        self.channel = channel
        self.stub: Any = snapshots_pb2_grpc.SnapshotServiceStub(channel)
        self.name = name

    async def advance(
        self, epoch: int = 1, instance: str = INSTANCE, boot_id: str = BOOT
    ) -> pb.AdvanceEpochResponse:
        request = pb.AdvanceEpochRequest(
            name=self.name, epoch=epoch, instance=instance, boot_id=boot_id
        )
        return await self.stub.AdvanceEpoch(request)

    async def send(self, frames: Iterable[Frame]) -> pb.UploadSnapshotResponse:
        return await self.stub.UploadSnapshot(streamed(frames), timeout=60)

    async def upload(self, data: bytes, fingerprint: bytes, **changes: Any) -> Snapshot:
        """A segment in one go."""
        changes = {"parent": self.name, **changes}
        frames = [header(**changes), *chunks(data), trailer(data, fingerprint)]
        return (await self.send(frames)).snapshot

    async def upload_file(self, data: bytes, **changes: Any) -> Snapshot:
        changes = {"parent": self.name, **changes}
        frames = [file_header(**changes), *chunks(data), trailer(data)]
        return (await self.send(frames)).snapshot

    async def download(
        self, generation: int | str = "latest", **wanted: Any
    ) -> Download:
        request = pb.DownloadSnapshotRequest(
            name=f"{self.name}/snapshots/{generation}", **wanted
        )
        found = Download()
        async for frame in self.stub.DownloadSnapshot(request, timeout=60):
            match frame.WhichOneof("frame"):
                case "header":
                    found.header = frame.header
                case "chunk":
                    found.chunks.append(frame.chunk)
                case "trailer":
                    found.trailer = frame.trailer
        return found

    async def get(
        self, generation: int | str = "latest", **wanted: Any
    ) -> pb.GetSnapshotResponse:
        name = f"{self.name}/snapshots/{generation}"
        return await self.stub.GetSnapshot(pb.GetSnapshotRequest(name=name, **wanted))

    async def list(self, **wanted: Any) -> pb.ListSnapshotsResponse:
        request = pb.ListSnapshotsRequest(parent=self.name, **wanted)
        return await self.stub.ListSnapshots(request)

    async def delete(self, generation: int | str, **wanted: Any) -> int:
        name = f"{self.name}/snapshots/{generation}"
        request = pb.DeleteSnapshotRequest(name=name, **wanted)
        return (await self.stub.DeleteSnapshot(request)).deleted_count

    async def persisted(self, upload_id: str) -> int:
        request = pb.GetUploadRequest(parent=self.name, upload_id=upload_id)
        return (await self.stub.GetUpload(request)).upload.persisted_size_bytes

    async def abort(self, upload_id: str) -> None:
        request = pb.AbortUploadRequest(parent=self.name, upload_id=upload_id)
        await self.stub.AbortUpload(request)
