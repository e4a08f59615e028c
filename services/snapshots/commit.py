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
from services.snapshots import records
from services.snapshots.disk_work import disk_errors, in_thread, sync_file
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
from services.snapshots.rot import Rot
from services.snapshots.segment_files import check_fingerprint
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
        rot: Rot,
        clock: Clock,
        *,
        size_bytes_max: int,
    ) -> None:
        self._blobs = blobs
        self._catalog = catalog
        self._scratch = scratch
        self._pins = pins
        self._rot = rot
        self._clock = clock
        self._examiner = Examiner(
            blobs, pins, rot, scratch, size_bytes_max=size_bytes_max
        )
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
            segment = path
            if header.body is Body.FILE:
                segment = self._scratch()
                stack.callback(segment.unlink, missing_ok=True)
            added: Addition | None = None
            for _ in range(_TRIES):
                if added is None or added.segment.kind is Kind.DELTA:
                    # A delta rests on the chain that the head has now.
                    state, added = await self._made(header, state, path, segment)
                    if header.body is Body.SEGMENT:
                        check_fingerprint(added, trailer.fingerprint)
                    await self._publish(header, added, segment, stack)
                entered = await self._enter(header, state, added)
                if entered is not None:
                    self.committed(entered)
                    await self.record(entered)
                    return entered
                state, _ = await self._catalog.look(header.agent)
                head = state.head_generation
                check_match(header.agent, head, header.if_generation_match)
        raise ServiceError(
            Reason.GENERATION_MISMATCH,
            f"cannot write {header.agent}: others write it all the time; try again",
            generation=state.head_generation,
        )

    async def acknowledge(self, snapshot: Snapshot) -> Snapshot:
        """The answer to an upload that was committed, maybe by a call that was cut."""
        await self._catalog.settle(snapshot.agent)
        await self.record(snapshot)
        return snapshot

    async def record(self, snapshot: Snapshot) -> None:
        """Puts the record beside the segments: from it the catalog can be rebuilt."""
        await record(self._catalog, self._blobs, snapshot)

    async def _made(
        self, header: Header, state: AgentState, path: Path, segment: Path
    ) -> tuple[AgentState, Addition]:
        """What the upload adds, and to which state."""
        agent = header.agent
        if header.body is Body.FILE:
            segment.unlink(missing_ok=True)
            return state, await self._examiner.pack(agent, path, state.head, segment)
        examining = self._examined(agent, state, path)
        examined, _ = await asyncio.gather(examining, _flushed(path))
        return examined

    async def _examined(
        self, agent: AgentName, state: AgentState, path: Path
    ) -> tuple[AgentState, Addition]:
        """Since the header came, the head's chain may have been compacted, and what was
        merged be gone."""
        try:
            return state, await self._examiner.examine(agent, path, state.head)
        except ServiceError as error:
            if error.reason is not Reason.PARENT_MISMATCH:
                raise
            now, _ = await self._catalog.look(agent)
            if now.revision == state.revision:
                raise
            return now, await self._examiner.examine(agent, path, now.head)

    async def _publish(
        self, header: Header, added: Addition, segment: Path, held: AsyncExitStack
    ) -> None:
        """Makes the segment durable; nobody collects it while `held` is open."""
        town, digest = header.agent.town, added.segment.blake3
        await held.enter_async_context(self._pins.holding(town, [digest]))
        await self._blobs.publish(records.segment_key(town, digest), segment)
        await self._rot.heal(town, [digest])

    async def _enter(
        self, header: Header, state: AgentState, added: Addition
    ) -> Snapshot | None:
        snapshot = Snapshot(
            agent=header.agent,
            generation=state.last + 1,
            content=content_with(header.agent, state.head, added),
            origin=header.origin,
            epoch=header.claim.epoch or 0,
            instance=header.claim.instance,
            create_time=self._clock.now(),
        )
        return await self._catalog.commit(
            snapshot, header.claim, header.if_generation_match, state.revision
        )

    @asynccontextmanager
    async def _turn(self, size_bytes: int) -> AsyncIterator[None]:
        """Large ones wait for each other, small ones for nobody."""
        if size_bytes <= HEAVY_BYTES:
            yield
            return
        async with self._heavy:
            yield


async def _flushed(path: Path) -> None:
    """Has the disk write a large upload while it is proven: both take as long."""
    if path.stat().st_size > HEAVY_BYTES:
        with disk_errors("the upload"):
            await in_thread(sync_file, path)
