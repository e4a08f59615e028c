"""Merges what long chains have gathered, beside the saves that make them longer.

segment in the blob store → the catalog's one step → record in the blob store: the
order of a commit. Whatever is cut off in between, the head reads as one chain or the
other, and both are the same state.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import structlog

from services.chassis.errors import ServiceError
from services.chassis.names import AgentName
from services.chassis.telemetry import Event
from services.snapshots import records
from services.snapshots.compaction import Run, compacted, followers, plan
from services.snapshots.disk_work import in_thread
from services.snapshots.generations import Segment, Snapshot
from services.snapshots.pins import Pins
from services.snapshots.recording import record
from services.snapshots.segment_files import addition
from services.snapshots.segment_merge import fold, merge_deltas
from services.snapshots.store import BlobMissing, BlobStore, Catalog
from services.snapshots.upkeep import Upkeep

_AGAIN_S: Final = 10.0

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Compactor:
    """One task, in a town's turn. Two of them on one agent do no harm: the later one
    has no effect."""

    catalog: Catalog
    blobs: BlobStore
    pins: Pins
    upkeep: Upkeep
    scratch: Callable[[], Path]
    _long: set[AgentName] = field(default_factory=set)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)

    def note(self, snapshot: Snapshot) -> None:
        """A generation that was committed, or found; its chain may be long."""
        if plan(snapshot.content.segments) is not None:
            self._long.add(snapshot.agent)
            self._wake.set()

    async def run(self) -> None:
        """Compacts what was noted until it is cancelled."""
        while True:
            # Of a town that others clean right now, nobody says when they are done.
            with suppress(TimeoutError):
                async with asyncio.timeout(_AGAIN_S if self._long else None):
                    await self._wake.wait()
            self._wake.clear()
            for agent in sorted(self._long, key=str):
                self._long.discard(agent)
                await self._tried(agent)

    async def compact(self, agent: AgentName) -> None:
        """Until the head's chain is short."""
        while await self._step(agent):
            pass

    async def _tried(self, agent: AgentName) -> None:
        try:
            async with self.upkeep.turn(agent.town) as turn:
                if turn:
                    await self.compact(agent)
                else:
                    self._long.add(agent)
        # What fails is noted again by the next commit, or the next sweep.
        except ServiceError as error:
            _log.warning(Event.COMPACTION_FAILED, agent=str(agent), error=str(error))
        except Exception:  # the root of a task: a defect must not end it unseen
            _log.exception(Event.COMPACTION_FAILED, agent=str(agent))

    async def _step(self, agent: AgentName) -> bool:
        """One merge; whether the head reads through it now."""
        state, _ = await self.catalog.look(agent)
        run = plan(state.head.content.segments) if state.head else None
        if run is None:
            return False
        try:
            async with AsyncExitStack() as stack:
                merged = await self._merged(stack, agent, run)
                return await self._enter(stack, agent, run, merged)
        except BlobMissing:
            # Merged by somebody else meanwhile, or lost: then a save will be a base.
            return False

    async def _enter(
        self, stack: AsyncExitStack, agent: AgentName, run: Run, merged: Segment
    ) -> bool:
        while True:
            state, _ = await self.catalog.look(agent)
            head = state.head
            later = followers(head, run) if head is not None else None
            if head is None or later is None:
                return False
            if run.folds and later:
                # Their prefixes may name pages of the deltas that are gone now.
                whole = Run(run.segments, later)
                later = (await self._merged(stack, agent, whole),)
            shorter = compacted(head, (*run.before, merged, *later))
            if await self.catalog.revise(agent, head, shorter):
                await record(self.catalog, self.blobs, shorter)
                _log.info(
                    Event.CHAIN_COMPACTED,
                    name=shorter.name,
                    kind=merged.kind,
                    merged=len(run.segments),
                    segments=len(shorter.content.segments),
                    size_bytes=merged.size_bytes,
                )
                return True

    async def _merged(
        self, stack: AsyncExitStack, agent: AgentName, run: Run
    ) -> Segment:
        """The run as one segment in the blob store, kept there by the stack."""
        target = self.scratch()
        try:
            async with self._files(agent, run) as paths:
                segment = await in_thread(self._merge, run, paths, target)
            held = self.pins.holding(agent.town, [segment.blake3])
            await stack.enter_async_context(held)
            key = records.segment_key(agent.town, segment.blake3)
            await self.blobs.publish(key, target)
            return segment
        finally:
            await in_thread(target.unlink, missing_ok=True)

    def _merge(self, run: Run, paths: list[Path], target: Path) -> Segment:
        start = len(run.before)
        if run.folds:
            info = fold(paths[0], paths[1:], self.scratch(), target)
        else:
            info = merge_deltas(paths[:start], paths[start:], self.scratch(), target)
        return addition(info).segment

    @asynccontextmanager
    async def _files(self, agent: AgentName, run: Run) -> AsyncIterator[list[Path]]:
        digests = [each.blake3 for each in run.before + run.segments]
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self.pins.holding(agent.town, digests))
            paths = []
            for digest in digests:
                blob = self.blobs.local(records.segment_key(agent.town, digest))
                paths.append(await stack.enter_async_context(blob))
            yield paths
