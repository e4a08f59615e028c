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
from services.snapshots import records
from services.snapshots.disk_work import in_thread
from services.snapshots.examination import Examiner
from services.snapshots.generations import (
    Addition,
    AgentState,
    Kind,
    Snapshot,
    check_match,
    content_with,
)
from services.snapshots.pins import Pins
from services.snapshots.recording import record
from services.snapshots.segment_files import check_fingerprint, encode_file
from services.snapshots.store import BlobStore, Catalog
from services.snapshots.upload import Body, Header, Trailer

# Above this, checking takes a core for longer than a short call may wait.
HEAVY_BYTES: Final = 8 << 20
# Leaves threads to the short work while large segments are checked.
_HEAVY_AT_ONCE: Final = 2
# Only whole-file writes race; each lost race means that another one was committed.
_TRIES: Final = 10


def _nobody(snapshot: Snapshot) -> None:
    """Until somebody wants to be told."""


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
    ) -> None:
        self._blobs = blobs
        self._catalog = catalog
        self._scratch = scratch
        self._pins = pins
        self._clock = clock
        self._examiner = Examiner(blobs, pins, scratch, size_bytes_max=size_bytes_max)
        # Told of each new generation.
        self.committed: Callable[[Snapshot], None] = _nobody
        self._heavy = asyncio.Semaphore(_HEAVY_AT_ONCE)

    async def commit(
        self, header: Header, state: AgentState, path: Path, trailer: Trailer
    ) -> Snapshot:
        """The generation that the file became; nothing changed if this raises.

        The state is what the header was checked against. That it still holds is for
        the catalog to say, in the one step that counts.
        """
        async with self._turn(trailer.size_bytes), AsyncExitStack() as stack:
            if header.body is Body.FILE:
                source = self._scratch()
                stack.callback(source.unlink, missing_ok=True)
                added = await in_thread(encode_file, path, source)
            else:
                source = path
                state, added = await self._examined(header, state, path)
                check_fingerprint(added, trailer.fingerprint)
            digest = added.segment.blake3
            await stack.enter_async_context(
                self._pins.holding(header.agent.town, [digest])
            )
            key = records.segment_key(header.agent.town, digest)
            await self._blobs.publish(key, source)
            return await self._enter(header, state, added, path)

    async def acknowledge(self, snapshot: Snapshot) -> Snapshot:
        """The answer to an upload that was committed, maybe by a call that was cut."""
        await self._catalog.settle(snapshot.agent)
        await self.record(snapshot)
        return snapshot

    async def record(self, snapshot: Snapshot) -> None:
        """Puts the record beside the segments: from it the catalog can be rebuilt."""
        await record(self._catalog, self._blobs, snapshot)

    async def _examined(
        self, header: Header, state: AgentState, path: Path
    ) -> tuple[AgentState, Addition]:
        """What the segment adds, and to which state: since the header came, the head's
        chain may have been compacted, and what was merged be gone."""
        agent = header.agent
        try:
            return state, await self._examiner.examine(agent, path, state.head)
        except ServiceError as error:
            if error.reason is not Reason.PARENT_MISMATCH:
                raise
            now, _ = await self._catalog.look(agent)
            if now.revision == state.revision:
                raise
            return now, await self._examiner.examine(agent, path, now.head)

    async def _enter(
        self, header: Header, state: AgentState, added: Addition, path: Path
    ) -> Snapshot:
        for _ in range(_TRIES):
            snapshot = Snapshot(
                agent=header.agent,
                generation=state.last + 1,
                content=content_with(header.agent, state.head, added),
                origin=header.origin,
                epoch=header.claim.epoch or 0,
                instance=header.claim.instance,
                create_time=self._clock.now(),
            )
            entered = await self._catalog.commit(
                snapshot, header.claim, header.if_generation_match, state.revision
            )
            if entered is not None:
                self.committed(entered)
                await self.record(entered)
                return entered
            state, _ = await self._catalog.look(header.agent)
            check_match(header.agent, state.head_generation, header.if_generation_match)
            if added.segment.kind is Kind.DELTA:
                # Same state, another chain: prefixes must be found in that one too.
                added = await self._examiner.examine(header.agent, path, state.head)
        raise ServiceError(
            Reason.GENERATION_MISMATCH,
            f"cannot write {header.agent}: others write it all the time; try again",
            generation=state.head_generation,
        )

    @asynccontextmanager
    async def _turn(self, size_bytes: int) -> AsyncIterator[None]:
        """Large ones wait for each other, small ones for nobody."""
        if size_bytes <= HEAVY_BYTES:
            yield
            return
        async with self._heavy:
            yield
