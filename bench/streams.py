"""B7: whole snapshots in and out, against the same bytes in a bare gRPC stream."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import time
import uuid
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import grpc
import httpx
from blake3 import blake3

from bench import bare
from bench.rows import Goal, Row, compare
from services.segments.encode import SegmentEncoder
from services.segments.page_map import PageMap
from services.supervisor.live_source import LiveSource
from tests.support.plane import PlaneProcess
from townkeeper.snapshots.v1 import snapshots_pb2 as pb
from townkeeper.snapshots.v1.snapshots_pb2_grpc import SnapshotServiceStub

AGENT: Final = "bench-stream"
RIG: Final = "rig-1"
BOOT: Final = "bench-boot"
# One row fills most of a page of 4 KiB: 64 MiB in all, which hardly compress.
ROWS: Final = 16_384
ROW_BYTES: Final = 3_900
RUNS: Final = 5
CALL_S: Final = 60.0

BARE: Final = "× bare"
GRPC: Final = "× gRPC"
GOALS: Final = {
    "upload": Goal("B7.upload", "segment in", 0.6, BARE, True),
    "download": Goal("B7.download", "segment out", 0.6, BARE, True),
    "file upload": Goal("B7.file.upload", "file in", 0.6, BARE, True),
    "file download": Goal("B7.file.download", "file out", 0.6, BARE, True),
    "http upload": Goal("B7.http.upload", "file in by HTTP", 0.6, GRPC, True),
    "http download": Goal("B7.http.download", "file out by HTTP", 0.6, GRPC, True),
}
BASELINE: Final = {
    "upload": "bare put",
    "download": "bare get",
    "file upload": "bare put",
    "file download": "bare get",
    "http upload": "file upload",
    "http download": "file download",
}

Step = Callable[[], Awaitable[None]]


def measure(plane: PlaneProcess, bare_address: str, folder: Path) -> Iterator[Row]:
    """All ways in turn, five times over; a rate is the time upside down."""
    times_s = asyncio.run(_measure(plane, bare_address, folder))
    for name, goal in GOALS.items():
        yield compare(goal, times_s[BASELINE[name]], times_s[name])


async def _measure(
    plane: PlaneProcess, bare_address: str, folder: Path
) -> dict[str, list[float]]:
    async with (
        grpc.aio.insecure_channel(bare_address) as bare_channel,
        grpc.aio.insecure_channel(plane.endpoints.snapshots) as channel,
        httpx.AsyncClient(base_url=plane.endpoints.http, timeout=CALL_S) as client,
    ):
        bearer = f"Bearer {plane.token('container')}"
        ways = _Ways(plane, bare_channel, channel, client, bearer, folder / "got.bin")
        steps: dict[str, Step] = {
            "bare put": ways.bare_put,
            "upload": ways.upload,
            "file upload": ways.file_upload,
            "http upload": ways.http_upload,
            "bare get": ways.bare_get,
            "download": ways.download,
            "file download": ways.file_download,
            "http download": ways.http_download,
        }
        times_s: dict[str, list[float]] = {name: [] for name in steps}
        for run in range(RUNS + 1):
            await ways.renew(*make_segment(folder / f"run-{run}"))
            for name, step in steps.items():
                begun = time.perf_counter()
                await step()
                if run:  # the first warms up
                    times_s[name].append(time.perf_counter() - begun)
        return times_s


def make_segment(folder: Path) -> tuple[bytes, bytes]:
    """A base segment as the supervisor makes one, and its fingerprint."""
    (folder / "scratch").mkdir(parents=True)
    path = folder / "session.db"
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("create table page (x)")
        database.execute(
            "with recursive n(i) as"
            " (select 1 union all select i + 1 from n where i < ?)"
            " insert into page select randomblob(?) from n",
            (ROWS, ROW_BYTES),
        )
    source = LiveSource(path, folder / "scratch", busy_ms=1000)
    capture = source.capture(PageMap(), base=True)
    assert capture is not None, "a database without a map has changed"
    with capture:
        encoder = SegmentEncoder(capture.header, capture.blocks())
        data = b"".join(encoder)
    source.close()
    shutil.rmtree(folder)
    return data, bytes(encoder.info.fingerprint)


class _Ways:
    """Each sends `data`, or fetches it to a file that is synced."""

    def __init__(
        self,
        plane: PlaneProcess,
        bare_channel: grpc.aio.Channel,
        channel: grpc.aio.Channel,
        client: httpx.AsyncClient,
        bearer: str,
        target: Path,
    ) -> None:
        self.data, self._fingerprint = b"", b""
        self._file_name = plane.agent_name(AGENT)
        self._segment_name = ""
        self._instance = f"towns/{plane.town}/instances/bench"
        self._path = f"/api/towns/{plane.town}/rigs/{RIG}/agents/{AGENT}/db-snapshot"
        self._bare_put: Any = bare_channel.stream_unary(bare.PUT)
        self._bare_get: Any = bare_channel.unary_stream(bare.GET)
        self._stub: Any = SnapshotServiceStub(channel)
        self._client = client
        self._bearer = bearer
        self._target = target

    async def renew(self, data: bytes, fingerprint: bytes) -> None:
        """Other bytes for a new agent: what is stored already costs less."""
        self.data, self._fingerprint = data, fingerprint
        self._segment_name = f"{self._file_name}-{uuid.uuid4().hex[:8]}"
        request = pb.AdvanceEpochRequest(
            name=self._segment_name, epoch=1, instance=self._instance, boot_id=BOOT
        )
        await self._stub.AdvanceEpoch(request, metadata=self._metadata)

    async def bare_put(self) -> None:
        await self._bare_put(self._frames(), timeout=CALL_S)

    async def bare_get(self) -> None:
        await self._keep(self._bare_get(b"", timeout=CALL_S))

    async def upload(self) -> None:
        header = pb.UploadHeader(
            parent=self._segment_name,
            upload_id=str(uuid.uuid4()),
            body=pb.UploadHeader.BODY_SEGMENT,
            epoch=1,
            instance=self._instance,
            boot_id=BOOT,
            if_generation_match=0,
        )
        await self._upload(header, self._fingerprint)

    async def file_upload(self) -> None:
        header = pb.UploadHeader(
            parent=self._file_name,
            upload_id=str(uuid.uuid4()),
            body=pb.UploadHeader.BODY_FILE,
        )
        await self._upload(header)

    async def download(self) -> None:
        await self._download(
            self._segment_name, pb.DownloadSnapshotRequest.CONTENT_SEGMENTS
        )

    async def file_download(self) -> None:
        await self._download(self._file_name, pb.DownloadSnapshotRequest.CONTENT_FILE)

    async def http_upload(self) -> None:
        reply = await self._client.post(
            self._path, content=self._frames(), headers=self._headers
        )
        reply.raise_for_status()

    async def http_download(self) -> None:
        async with self._client.stream(
            "GET", self._path, headers=self._headers
        ) as reply:
            reply.raise_for_status()
            await self._keep(reply.aiter_raw(bare.FRAME_BYTES))

    @property
    def _headers(self) -> dict[str, str]:
        return {
            "authorization": self._bearer,
            "content-type": "application/octet-stream",
        }

    @property
    def _metadata(self) -> tuple[tuple[str, str], ...]:
        return (("authorization", self._bearer),)

    async def _frames(self) -> AsyncIterator[bytes]:
        for at in range(0, len(self.data), bare.FRAME_BYTES):
            yield self.data[at : at + bare.FRAME_BYTES]

    async def _upload(self, header: pb.UploadHeader, fingerprint: bytes = b"") -> None:
        reply = await self._stub.UploadSnapshot(
            self._upload_frames(header, fingerprint),
            metadata=self._metadata,
            timeout=CALL_S,
        )
        assert reply.HasField("snapshot"), "the upload did not commit"

    async def _download(
        self, name: str, content: pb.DownloadSnapshotRequest.Content.ValueType
    ) -> None:
        request = pb.DownloadSnapshotRequest(
            name=f"{name}/snapshots/latest", content=content
        )
        frames = self._stub.DownloadSnapshot(
            request, metadata=self._metadata, timeout=CALL_S
        )
        await self._keep(_proven(frames))

    async def _upload_frames(
        self, header: pb.UploadHeader, fingerprint: bytes
    ) -> AsyncIterator[pb.UploadSnapshotRequest]:
        yield pb.UploadSnapshotRequest(header=header)
        digest, offset = blake3(), 0
        async for data in self._frames():
            digest.update(data)
            chunk = pb.Chunk(offset=offset, data=data, crc32=zlib.crc32(data))
            offset += len(data)
            yield pb.UploadSnapshotRequest(chunk=chunk)
        trailer = pb.UploadTrailer(
            size_bytes=offset, blake3=digest.digest(), fingerprint=fingerprint
        )
        yield pb.UploadSnapshotRequest(trailer=trailer)

    async def _keep(self, chunks: AsyncIterator[bytes]) -> None:
        """Writes what comes to a file, as durable as what was sent."""
        size_bytes = 0
        with self._target.open("wb") as file:
            async for data in chunks:
                size_bytes += len(data)
                await asyncio.to_thread(file.write, data)
            file.flush()
            await asyncio.to_thread(os.fsync, file.fileno())
        assert size_bytes == len(self.data), f"{size_bytes} bytes came"


async def _proven(frames: AsyncIterator[Any]) -> AsyncIterator[bytes]:
    """The bytes of a download, checked as every client should."""
    digest, wanted = blake3(), b""
    async for frame in frames:
        kind = frame.WhichOneof("frame")
        if kind == "chunk":
            assert zlib.crc32(frame.chunk.data) == frame.chunk.crc32, "a bad chunk"
            digest.update(frame.chunk.data)
            yield frame.chunk.data
        elif kind == "trailer":
            wanted = frame.trailer.blake3
    assert wanted == digest.digest(), "the bytes are not those of the trailer"
