"""Proves an uploaded segment before it is committed: whole, and right on the head."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

from services.chassis.errors import Reason, ServiceError
from services.chassis.names import AgentName
from services.segments.layout import Kind as FormatKind
from services.segments.read import verify
from services.snapshots import records
from services.snapshots.delta_proof import Outline, fingerprint_after, outline
from services.snapshots.disk_work import in_thread
from services.snapshots.file_changes import encode_changes
from services.snapshots.generations import (
    Addition,
    Segment,
    Snapshot,
    Standing,
    chain_of,
    check_parent,
    parent_mismatch,
    prefix_gone,
)
from services.snapshots.older_pages import older_pages
from services.snapshots.pins import Pins
from services.snapshots.rot import Rot
from services.snapshots.segment_files import (
    addition,
    encode_file,
    sound_page_size,
)
from services.snapshots.store import BlobMissing, BlobStore

_ROTTEN: Final = frozenset({Reason.SEGMENT_MALFORMED, Reason.DIGEST_MISMATCH})


class Examiner:
    """Reads segments with the chain that they rest on."""

    def __init__(
        self,
        blobs: BlobStore,
        pins: Pins,
        rot: Rot,
        scratch: Callable[[], Path],
        *,
        size_bytes_max: int,
    ) -> None:
        self._blobs = blobs
        self._pins = pins
        self._rot = rot
        self._scratch = scratch
        self._size_bytes_max = size_bytes_max

    async def examine(
        self, agent: AgentName, path: Path, head: Snapshot | None
    ) -> Addition:
        """What the segment adds. Raises SEGMENT_MALFORMED, DIGEST_MISMATCH,
        SNAPSHOT_TOO_LARGE, PARENT_MISMATCH."""
        found = await in_thread(outline, path)
        if found.header.kind is not FormatKind.DELTA:
            return await in_thread(self._verify, path)
        header = found.header
        standing = Standing(
            header.page_size, header.parent_page_count, bytes(header.parent_fingerprint)
        )
        segments = check_parent(agent, head, standing)
        async with self._chain(agent, segments) as chain:
            return await in_thread(self._verify_on, agent, path, found, chain)

    async def pack(
        self, agent: AgentName, path: Path, head: Snapshot | None, target: Path
    ) -> Addition:
        """Makes a segment of a whole file: of the pages that differ from the head's
        where that is less, else of all of it."""
        page_size = await in_thread(sound_page_size, path)
        if head is not None and page_size == head.content.page_size_bytes != 0:
            try:
                chain = self._chain(agent, chain_of(agent, head))
                async with chain as paths:
                    made = await in_thread(encode_changes, path, target, paths)
            except ServiceError as error:
                # Gone, damaged or too long: a base heals it.
                if error.reason not in {Reason.PARENT_MISMATCH, *_ROTTEN}:
                    raise
                made = None
            if made is not None:
                return made
        return await in_thread(encode_file, path, target, page_size)

    def _verify(self, path: Path) -> Addition:
        return addition(verify(path, database_bytes_max=self._size_bytes_max))

    def _verify_on(
        self, agent: AgentName, path: Path, found: Outline, chain: Sequence[Path]
    ) -> Addition:
        if found.prefix:
            added = self._verify_prefixed(agent, path, found, chain)
        else:
            added = self._verify(path)
        _prove(agent, added, path, found, chain)
        return added

    def _verify_prefixed(
        self, agent: AgentName, path: Path, found: Outline, chain: Sequence[Path]
    ) -> Addition:
        size = found.header.page_size
        pages = older_pages(chain[1:], set(found.prefix), size, self._scratch())
        with ExitStack() as stack:
            try:
                older = stack.enter_context(pages)
            except ServiceError as error:
                if error.reason not in _ROTTEN:
                    raise
                # Folded into the base since the delta was made, or damaged.
                raise prefix_gone(agent, error.message) from error
            limit = self._size_bytes_max
            return addition(verify(path, older.read, database_bytes_max=limit))

    @asynccontextmanager
    async def _chain(
        self, agent: AgentName, segments: Sequence[Segment]
    ) -> AsyncIterator[list[Path]]:
        """The chain's files. One that is damaged or gone makes the next save a base."""
        digests = [segment.blake3 for segment in segments]
        for digest in self._rot.of(agent.town) & set(digests):
            why = f"segment {digest.hex()} of the head is damaged"
            raise parent_mismatch(agent, why)
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._pins.holding(agent.town, digests))
            paths = []
            for digest in digests:
                blob = self._blobs.local(records.segment_key(agent.town, digest))
                try:
                    paths.append(await stack.enter_async_context(blob))
                except BlobMissing as error:
                    why = f"segment {digest.hex()} of the head is gone"
                    raise parent_mismatch(agent, why) from error
            yield paths


def _prove(
    agent: AgentName,
    added: Addition,
    path: Path,
    found: Outline,
    chain: Sequence[Path],
) -> None:
    """The fingerprint in the footer must be what the delta makes of the head's."""
    try:
        after = fingerprint_after(found, path, chain[0], chain[1:])
    except ServiceError as error:
        # The delta itself was proven, so it is the chain that has rotted.
        if error.reason not in _ROTTEN:
            raise
        raise parent_mismatch(agent, "the head's segments are damaged") from error
    if bytes(after) != added.fingerprint:
        raise parent_mismatch(agent, "its fingerprint does not follow from the head's")
