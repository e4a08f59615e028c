"""A snapshot service that keeps files in a folder, and checks every frame it gets."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blake3 import blake3

from services.chassis.auth import Kind, rule
from services.chassis.errors import Reason, ServiceError
from townkeeper.snapshots.v1 import resources_pb2 as res
from townkeeper.snapshots.v1 import snapshots_pb2 as pb
from townkeeper.snapshots.v1 import snapshots_pb2_grpc

SERVICE = pb.DESCRIPTOR.services_by_name["SnapshotService"].full_name
_OWN = (Kind.CONTAINER, Kind.USER, Kind.OPERATOR, Kind.AGENT)
_CALLERS = {
    "UploadSnapshot": (Kind.CONTAINER,),
    "AbortUpload": (Kind.CONTAINER,),
    "DownloadSnapshot": (Kind.CONTAINER, Kind.OPERATOR, Kind.AGENT),
    "GetSnapshot": _OWN,
    "ListSnapshots": _OWN,
    "DeleteSnapshot": (Kind.CONTAINER, Kind.OPERATOR),
}
POLICY = {f"/{SERVICE}/{name}": rule(*kinds) for name, kinds in _CALLERS.items()}
CHUNK_BYTES_MAX = 1024 * 1024


@dataclass
class Kept:
    """What the service has of one agent."""

    generations: dict[int, tuple[res.Snapshot, Path]] = field(default_factory=dict)
    last: int = 0
    epoch: int = 0
    holder: str = ""


class FakeSnapshots(snapshots_pb2_grpc.SnapshotServiceServicer):
    """Faults: `fail` refuses, `cut_after` ends downloads, `rot` spoils their trailer,
    `hold` lets uploads wait."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.reset()

    def reset(self) -> None:
        self.agents: dict[str, Kept] = {}
        self.paused: set[str] = set()
        self.aborted: set[str] = set()
        self.chunk_sizes: list[int] = []
        self.fail: ServiceError | None = None
        self.cut_after: int | None = None
        self.rot = False
        self.hold = False
        self.sent_chunks = 0
        self.downloads_ended = 0

    def keep(self, agent: str, data: bytes) -> int:
        """Puts a generation in place without any upload."""
        path = self._folder / f"direct-{len(list(self._folder.iterdir()))}"
        path.write_bytes(data)
        return int(self._commit(f"towns/town-1/agents/{agent}", path).generation)

    def fence(self, agent: str, epoch: int, holder: str) -> None:
        kept = self._kept(f"towns/town-1/agents/{agent}")
        kept.epoch, kept.holder = epoch, holder

    def bytes_of(self, agent: str, town: str = "town-1") -> bytes | None:
        kept = self._kept(f"towns/{town}/agents/{agent}")
        found = kept.generations.get(kept.last)
        return found[1].read_bytes() if found else None

    async def UploadSnapshot(self, request: Any, context: Any) -> Any:
        header = (await anext(request)).header
        assert pb.UploadHeader.BODY_FILE == header.body
        assert header.upload_id
        self._check(header.parent, header)
        self.paused.add(header.upload_id)
        path = self._folder / header.upload_id
        digest, size_bytes, trailer = blake3(), 0, None
        with path.open("wb") as file:
            async for frame in request:
                if frame.WhichOneof("frame") == "trailer":
                    trailer = frame.trailer
                    break
                assert frame.chunk.offset == size_bytes
                assert frame.chunk.crc32 == zlib.crc32(frame.chunk.data)
                assert 0 < len(frame.chunk.data) <= CHUNK_BYTES_MAX
                self.chunk_sizes.append(len(frame.chunk.data))
                while self.hold:
                    await asyncio.sleep(0.01)
                size_bytes += file.write(frame.chunk.data)
                digest.update(frame.chunk.data)
        if trailer is None:
            return pb.UploadSnapshotResponse(upload=res.Upload())
        assert (size_bytes, digest.digest()) == (trailer.size_bytes, trailer.blake3)
        self._check(header.parent, header)
        self.paused.discard(header.upload_id)
        return pb.UploadSnapshotResponse(snapshot=self._commit(header.parent, path))

    async def AbortUpload(self, request: Any, context: Any) -> Any:
        self.paused.discard(request.upload_id)
        self.aborted.add(request.upload_id)
        return pb.AbortUploadResponse()

    async def DownloadSnapshot(
        self, request: Any, context: Any
    ) -> AsyncIterator[pb.DownloadSnapshotResponse]:
        snapshot, path = self._find(request.name)
        yield pb.DownloadSnapshotResponse(header=snapshot)
        digest, sent = blake3(), 0
        left = request.limit or snapshot.size_bytes - request.offset
        try:
            with path.open("rb") as file:
                file.seek(request.offset)
                while data := file.read(min(CHUNK_BYTES_MAX, left - sent)):
                    if self.cut_after is not None and sent >= self.cut_after:
                        raise ServiceError(Reason.SNAPSHOT_CORRUPT, "cannot go on")
                    offset, crc32 = request.offset + sent, zlib.crc32(data)
                    chunk = pb.Chunk(offset=offset, data=data, crc32=crc32)
                    yield pb.DownloadSnapshotResponse(chunk=chunk)
                    self.sent_chunks += 1
                    digest.update(data)
                    sent += len(data)
            proof = bytes(32) if self.rot else digest.digest()
            trailer = pb.DownloadTrailer(size_bytes=sent, blake3=proof)
            yield pb.DownloadSnapshotResponse(trailer=trailer)
        finally:
            self.downloads_ended += 1

    async def GetSnapshot(self, request: Any, context: Any) -> Any:
        snapshot, _ = self._find(request.name)
        agent = request.name.rpartition("/snapshots/")[0]
        return pb.GetSnapshotResponse(snapshot=snapshot, epoch=self._kept(agent).epoch)

    async def ListSnapshots(self, request: Any, context: Any) -> Any:
        kept = self._kept(request.parent)
        newest = [one for one, _ in reversed(list(kept.generations.values()))]
        start = int(request.page_token or 0)
        end = start + (request.page_size or 50)
        return pb.ListSnapshotsResponse(
            snapshots=newest[start:end],
            next_page_token=str(end) if end < len(newest) else "",
        )

    async def DeleteSnapshot(self, request: Any, context: Any) -> Any:
        agent, _, last = request.name.rpartition("/snapshots/")
        self._check(agent, request)
        kept = self._kept(agent)
        if last == "-":
            count = len(kept.generations)
            kept.generations.clear()
            return pb.DeleteSnapshotResponse(deleted_count=count)
        self._find(request.name)
        del kept.generations[int(last)]
        return pb.DeleteSnapshotResponse(deleted_count=1)

    def _kept(self, agent: str) -> Kept:
        return self.agents.setdefault(agent, Kept())

    def _check(self, agent: str, asked: Any) -> None:
        """The fences that the contract has for whole files."""
        if self.fail:
            raise self.fail
        kept = self._kept(agent)
        given = asked.epoch if asked.HasField("epoch") else 0
        if given != kept.epoch:
            raise ServiceError(
                Reason.LEASE_FENCED,
                "cannot write under this epoch: send the highest",
                epoch=kept.epoch,
                holder=kept.holder,
            )
        head = kept.last if kept.last in kept.generations else 0
        if asked.HasField("if_generation_match") and asked.if_generation_match != head:
            raise ServiceError(
                Reason.GENERATION_MISMATCH, "cannot replace the head", generation=head
            )

    def _commit(self, agent: str, path: Path) -> res.Snapshot:
        kept = self._kept(agent)
        kept.last += 1
        snapshot = res.Snapshot(
            name=f"{agent}/snapshots/{kept.last}",
            generation=kept.last,
            format=res.FORMAT_OPAQUE,
            size_bytes=path.stat().st_size,
            epoch=kept.epoch,
            session_id="ses_1",
        )
        snapshot.create_time.FromJsonString("2026-01-02T03:04:05.678Z")
        kept.generations[kept.last] = (snapshot, path)
        return snapshot

    def _find(self, name: str) -> tuple[res.Snapshot, Path]:
        agent, _, last = name.rpartition("/snapshots/")
        kept = self._kept(agent)
        number = kept.last if last == "latest" else int(last)
        if number not in kept.generations:
            raise ServiceError(Reason.SNAPSHOT_NOT_FOUND, f"cannot find {name}")
        return kept.generations[number]
