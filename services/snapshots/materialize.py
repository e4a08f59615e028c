"""A generation's bytes as its segments hold them, proven on the way. Blocks.

Both ways out of the store need only a few MiB: a base or an opaque segment unpacks in
order, a chain is merged into a scratch file first.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from blake3 import blake3

from services.chassis.errors import Reason, ServiceError
from services.segments.chain import ChainBuilder, Expected
from services.segments.decode import SegmentDecoder
from services.segments.fingerprint import Fingerprint
from services.segments.read import file_parts
from services.segments.unpack import unpack
from services.snapshots.disk_work import disk_errors
from services.snapshots.generations import Segment, Snapshot

# What the codec finds wrong with stored bytes is our loss, not the caller's mistake.
_ROTTEN: Final = frozenset(
    {Reason.DIGEST_MISMATCH, Reason.SEGMENT_MALFORMED, Reason.PARENT_MISMATCH}
)


def prove(snapshot: Snapshot, segment: Segment, path: Path) -> None:
    """The file has the digest that names the segment, or it is corrupt."""
    digest = blake3()
    with rotten(snapshot, segment), path.open("rb", buffering=0) as file:
        for part in file_parts(file):
            digest.update(part)
    if digest.digest() != segment.blake3:
        raise corrupt(snapshot, segment, "its bytes fail their digest")


def merge(snapshot: Snapshot, paths: Sequence[Path], target: Path) -> None:
    """Builds the database at `target`, every page and the whole proven."""
    content = snapshot.content
    expected = Expected(
        content.page_size_bytes,
        content.page_count,
        Fingerprint.from_bytes(content.fingerprint),
    )
    last = content.segments[-1]
    with ChainBuilder(target, expected) as chain:
        for segment, path in zip(content.segments, paths, strict=True):
            with rotten(snapshot, segment), path.open("rb") as file:
                chain.add(file_parts(file))
        with rotten(snapshot, last):
            chain.finish()


def unpacked(
    snapshot: Snapshot, segment: Segment, path: Path
) -> Generator[bytes, None, None]:
    """The bytes of a base or of an opaque segment, in order."""
    decoder = SegmentDecoder()
    with rotten(snapshot, segment), path.open("rb") as file:
        for part in file_parts(file):
            for chunk in decoder.feed(part):
                yield unpack(chunk)
        decoder.finish()


def cut(parts: Iterator[bytes], start: int, end: int) -> Iterator[bytes]:
    """The bytes from `start` to `end` of what the parts join up to."""
    position = 0
    for part in parts:
        kept = part[max(start - position, 0) : max(end - position, 0)]
        position += len(part)
        if kept:
            yield kept
        if position >= end:
            return


@contextmanager
def rotten(snapshot: Snapshot, segment: Segment) -> Iterator[None]:
    """Names the segment that cannot be read any more."""
    try:
        with disk_errors("the blob store"):
            yield
    except ServiceError as error:
        if error.reason not in _ROTTEN:
            raise
        raise corrupt(snapshot, segment, error.message) from error
    except FileNotFoundError as error:
        raise corrupt(snapshot, segment, "it is gone") from error


def corrupt(snapshot: Snapshot, segment: Segment, why: str) -> ServiceError:
    name = segment.blake3.hex()
    return ServiceError(
        Reason.SNAPSHOT_CORRUPT,
        f"cannot read {snapshot.name}, segment {name} is lost ({why}): use another "
        "generation",
        name=snapshot.name,
        segment=name,
    )
