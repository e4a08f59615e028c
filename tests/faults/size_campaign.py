"""How large may it get? A session of many GB, and many streams at once, in bounded
memory. `make sizes` prints the table of docs/proof.md.

What is measured is the growth of each process: the most that it had resident, less
what it had before.
"""

from __future__ import annotations

import argparse
import asyncio
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias

from blake3 import blake3

from bench.database import Bulk, build
from bench.process import peak_bytes, reset_peak, resident_bytes
from bench.save import change
from bench.sessions import Session
from services.chassis.channels import StaticToken, open_channel
from tests.support.plane import PlaneProcess
from tests.support.snapshot_frames import (
    Client,
    Frame,
    chunks,
    file_header,
    trailer,
)
from townkeeper.snapshots.v1 import snapshots_pb2 as pb

MIB: Final = 1 << 20
SUPERVISOR_MIB: Final = 64
SERVICE_MIB: Final = 256
SMALL_SAVES: Final = 5
CHANGED: Final = 60
STREAM_MB: Final = 16
CALL_S: Final = 600.0
_Each: TypeAlias = Callable[[Client, bytes, asyncio.Barrier], Awaitable[None]]
_WATCHED: Final = {"supervisor": SUPERVISOR_MIB, "snapshots": SERVICE_MIB}


@dataclass
class Step:
    """What was done, how long it took, what each process grew by."""

    what: str
    seconds: float = 0.0
    grown_mib: dict[str, float] = field(default_factory=dict)

    @property
    def complaints(self) -> list[str]:
        return [
            f"{self.what}: {name} grew by {self.grown_mib[name]:.0f} MiB"
            for name, most in _WATCHED.items()
            if self.grown_mib[name] > most
        ]


@contextmanager
def watched(plane: PlaneProcess, what: str) -> Iterator[Step]:
    """Growth and time of what is done meanwhile."""
    pids = {name: plane.child(name).pid for name in _WATCHED}
    before = {name: resident_bytes(pid) for name, pid in pids.items()}
    for pid in pids.values():
        reset_peak(pid)
    step, begun = Step(what), time.perf_counter()
    yield step
    step.seconds = step.seconds or time.perf_counter() - begun
    for name, pid in pids.items():
        step.grown_mib[name] = (peak_bytes(pid) - before[name]) / MIB


def one_session(plane: PlaneProcess, folder: Path, size_mb: int) -> Iterator[Step]:
    """Saved, saved again and again, and back on an empty disk."""
    bulk = build(folder / f"{size_mb}.db", size_mb)
    session = Session(plane, "large")
    session.start()
    with watched(plane, "first save") as step:
        session.reveal(session.prepare(bulk))
        begun = time.perf_counter()
        session.save()
        step.seconds = time.perf_counter() - begun
    yield step
    with watched(plane, f"save of {CHANGED} scattered pages, median") as step:
        step.seconds = statistics.median(_small_saves(session, bulk))
    yield step
    before = _content(session.database)
    session.stop()
    session.lose_disk()
    with watched(plane, "start on an empty disk") as step:
        session.start()
    assert before == _content(session.database), "another session came back"
    yield step
    session.stop()
    session.lose_disk()


def _small_saves(session: Session, bulk: Bulk) -> Iterator[float]:
    with closing(sqlite3.connect(session.database, timeout=30)) as database:
        for run in range(SMALL_SAVES):
            session.save()
            change(database, bulk, CHANGED, seed=run)
            begun = time.perf_counter()
            session.save()
            yield time.perf_counter() - begun


def _content(path: Path) -> list[tuple[int, int, int]]:
    """Every row, in short."""
    with closing(sqlite3.connect(path, timeout=30)) as database:
        found = database.execute(
            "select count(*), sum(length(x)), sum(id * unicode(substr(x, 7, 1)))"
            " from page"
        )
        return list(found)


def many_streams(
    plane: PlaneProcess, folder: Path, count: int, size_mb: int = STREAM_MB
) -> Iterator[Step]:
    """So many at once: each upload is half done before the first of them ends."""
    data = build(folder / f"{size_mb}.db", size_mb).path.read_bytes()
    with watched(plane, f"{count} uploads of {size_mb} MB at once") as step:
        asyncio.run(_streams(plane, data, count, _upload))
    yield step
    with watched(plane, f"{count} downloads of {size_mb} MB at once") as step:
        asyncio.run(_streams(plane, data, count, _download))
    yield step


async def _streams(plane: PlaneProcess, data: bytes, count: int, each: _Each) -> None:
    everyone = asyncio.Barrier(count)
    token = StaticToken(plane.token("container"))
    async with open_channel(plane.endpoints.snapshots, token) as channel:
        names = [plane.agent_name(f"stream-{number}") for number in range(count)]
        clients = [Client(channel, name) for name in names]
        await asyncio.gather(*(each(client, data, everyone) for client in clients))


async def _upload(client: Client, data: bytes, everyone: asyncio.Barrier) -> None:
    async def frames() -> AsyncIterator[Frame]:
        yield file_header(parent=client.name)
        for frame in chunks(data):
            if frame.chunk.offset * 2 <= len(data) < (frame.chunk.offset + MIB) * 2:
                await everyone.wait()
            yield frame
        yield trailer(data)

    reply = await client.stub.UploadSnapshot(frames(), timeout=CALL_S)
    assert reply.HasField("snapshot"), "the upload did not commit"


async def _download(client: Client, data: bytes, everyone: asyncio.Barrier) -> None:
    request = pb.DownloadSnapshotRequest(name=f"{client.name}/snapshots/latest")
    digest = blake3()
    stream = client.stub.DownloadSnapshot(request, timeout=CALL_S)
    async for frame in stream:
        if frame.WhichOneof("frame") == "header":
            await everyone.wait()
        digest.update(frame.chunk.data)
    assert blake3(data).digest() == digest.digest(), "other bytes came back"


def play(
    folder: Path, size_mb: int, streams: int, stream_mb: int = STREAM_MB
) -> Iterator[Step]:
    """All of it, on a plane of its own."""
    with PlaneProcess(folder / "plane", TOWNKEEPER_EXEC="any") as plane:
        yield from one_session(plane, folder, size_mb)
        yield from many_streams(plane, folder, streams, stream_mb)


def main() -> int:
    """Prints each figure as it comes; 1 if anything grew too much."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size-mb", type=int, default=10_000)
    parser.add_argument("--streams", type=int, default=100)
    parser.add_argument("--folder", help="a folder on the disk to use")
    options = parser.parse_args()
    lines = [f"| what | seconds | {' | '.join(_WATCHED)} grew by, MiB |"]
    lines += ["| --- | --- | --- | --- |"]
    wrong = list[str]()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        sys.stdout.write("\n".join(lines) + "\n")
        for step in play(Path(folder), options.size_mb, options.streams):
            grown = " | ".join(f"{step.grown_mib[name]:.0f}" for name in _WATCHED)
            sys.stdout.write(f"| {step.what} | {step.seconds:.2f} | {grown} |\n")
            sys.stdout.flush()
            wrong += step.complaints
    sys.stdout.write("".join(f"{line}\n" for line in wrong))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
