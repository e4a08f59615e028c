"""The commit: what arrived becomes a generation, in an order that survives any crash.

segment in the blob store → the catalog's one step → record in the blob store →
answer. Whatever is cut off in between, the earlier head stays or the new one is whole.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final, Protocol

from services.chassis.clock import Clock
from services.chassis.errors import Reason, ServiceError
from services.chassis.names import AgentName
from services.segments.read import verify
from services.snapshots import records
from services.snapshots.disk_work import in_thread
from services.snapshots.generations import (
    Addition,
    AgentState,
    Content,
    Kind,
    Snapshot,
    check_claim,
    check_match,
    content_with,
)
from services.snapshots.older_pages import OlderPages, prefix_numbers
from services.snapshots.pins import Pins
from services.snapshots.segment_files import addition, check_fingerprint, encode_file
from services.snapshots.store import BlobMissing, BlobStore, Catalog
from services.snapshots.upload import Body, Header, Trailer

# Above this, checking takes a core for longer than a short call may wait.
HEAVY_BYTES: Final = 8 << 20
# Leaves threads to the short work while large segments are checked.
_HEAVY_AT_ONCE: Final = 2
# Only whole-file writes race; each lost race means that another one was committed.
_TRIES: Final = 10


class Scratch(Protocol):
    """Gives names for files that are nobody's after this process."""

    def __call__(self) -> Path: ...


class Committer:
    """Makes generations of uploads that arrived complete."""

    def __init__(
        self,
        blobs: BlobStore,
        catalog: Catalog,
        scratch: Scratch,
        pins: Pins,
        clock: Clock,
        *,
        size_bytes_max: int,
        committed: Callable[[AgentName], None] = lambda agent: None,
    ) -> None:
        self._blobs = blobs
        self._catalog = catalog
        self._scratch = scratch
        self._pins = pins
        self._clock = clock
        self._size_bytes_max = size_bytes_max
        self._committed = committed
        self._heavy = asyncio.Semaphore(_HEAVY_AT_ONCE)

    async def commit(self, header: Header, path: Path, trailer: Trailer) -> Snapshot:
        """The generation that the file became; nothing changed if this raises."""
        state, _ = await self._catalog.look(header.agent)
        check_claim(header.agent, state, header.claim)
        check_match(header.agent, state.head_generation, header.if_generation_match)
        async with self._turn(path), AsyncExitStack() as stack:
            if header.body is Body.FILE:
                source = self._scratch()
                stack.callback(source.unlink, missing_ok=True)
                added = await in_thread(encode_file, path, source)
            else:
                source = path
                added = await self._verified(header.agent, path, state)
                check_fingerprint(added, trailer.fingerprint)
            content = content_with(header.agent, state.head, added)
            digest = added.segment.blake3
            await stack.enter_async_context(
                self._pins.holding(header.agent.town, [digest])
            )
            key = records.segment_key(header.agent.town, digest)
            await self._blobs.publish(key, source)
            return await self._enter(header, state, content)

    async def acknowledge(self, snapshot: Snapshot) -> Snapshot:
        """The answer to an upload that was committed, maybe by a call that was cut."""
        await self._catalog.settle(snapshot.agent)
        await self.record(snapshot)
        return snapshot

    async def record(self, snapshot: Snapshot) -> None:
        """Puts the record beside the segments: from it the catalog can be rebuilt."""
        key = records.record_key(snapshot.agent, snapshot.generation)
        text = records.to_json(snapshot).encode()
        if await self._blobs.create(key, text):
            return
        if await self._blobs.read(key) != text:
            raise ServiceError(
                Reason.STORE_UNAVAILABLE,
                f"cannot record {snapshot.name}: the blob store has another record of "
                "it, so the catalog is older than the store; reindex the agent",
                name=snapshot.name,
            )

    async def _enter(
        self, header: Header, state: AgentState, content: Content
    ) -> Snapshot:
        for _ in range(_TRIES):
            snapshot = Snapshot(
                agent=header.agent,
                generation=state.last + 1,
                content=content,
                origin=header.origin,
                epoch=header.claim.epoch or 0,
                instance=header.claim.instance,
                create_time=self._clock.now(),
            )
            entered = await self._catalog.commit(
                snapshot, header.claim, header.if_generation_match
            )
            if entered is not None:
                self._committed(header.agent)
                await self.record(entered)
                return entered
            state, _ = await self._catalog.look(header.agent)
        raise ServiceError(
            Reason.GENERATION_MISMATCH,
            f"cannot write {header.agent}: others write it all the time; try again",
            generation=state.head_generation,
        )

    async def _verified(
        self, agent: AgentName, path: Path, state: AgentState
    ) -> Addition:
        """The segment, proven whole by its own hashes and those it rests on."""
        wanted = await in_thread(prefix_numbers, path)
        if not wanted:
            return await in_thread(self._verify, path)
        chain = state.head.content.segments if state.head else ()
        digests = [part.blake3 for part in chain if part.kind is Kind.DELTA]
        page_size = state.head.content.page_size_bytes if state.head else 0
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._pins.holding(agent.town, digests))
            keys = [records.segment_key(agent.town, digest) for digest in digests]
            deltas = [await stack.enter_async_context(self._local(key)) for key in keys]
            older = OlderPages(deltas, wanted, page_size, self._scratch())
            return await in_thread(self._verify_on, path, older)

    def _verify(self, path: Path) -> Addition:
        return addition(verify(path, database_bytes_max=self._size_bytes_max))

    def _verify_on(self, path: Path, older: OlderPages) -> Addition:
        with older:
            return addition(
                verify(path, older.read, database_bytes_max=self._size_bytes_max)
            )

    @asynccontextmanager
    async def _local(self, key: str) -> AsyncIterator[Path]:
        try:
            async with self._blobs.local(key) as path:
                yield path
        except BlobMissing as error:
            raise ServiceError(
                Reason.PARENT_MISMATCH,
                f"cannot read {key}, on which the delta rests: send a base",
                segment=key,
            ) from error

    @asynccontextmanager
    async def _turn(self, path: Path) -> AsyncIterator[None]:
        """Large ones wait for each other, small ones for nobody."""
        if (await in_thread(path.stat)).st_size <= HEAVY_BYTES:
            yield
            return
        async with self._heavy:
            yield
