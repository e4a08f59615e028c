"""Puts right what crashes left, and forgets what need not be kept.

At start and each hour: records that the catalog has and the blob store lacks, and the
other way round. Then for ever: late uploads, old records, thinned generations, unused
segments. A town is one replica's while it is cleaned; the others leave it for later.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import structlog

from services.chassis.clock import Clock
from services.chassis.errors import ServiceError
from services.chassis.names import AgentName
from services.chassis.telemetry import Event
from services.snapshots import records
from services.snapshots.collection import all_towns, collect
from services.snapshots.commit import Committer
from services.snapshots.generations import Snapshot
from services.snapshots.pins import Pins
from services.snapshots.recording import unrecord
from services.snapshots.reindex import reindex, revised, stored_generations
from services.snapshots.retention import to_drop
from services.snapshots.staging import Staging
from services.snapshots.store import RECORDS_KEPT, BlobStore, Catalog
from services.snapshots.upkeep import Upkeep

SWEEP_EVERY_S: Final = 60.0
# Agents that rest are thinned too, as their generations age; and a round of
# collection reads every record of a town, so it comes as rarely as that.
SWEEP_ALL_EVERY_S: Final = 3600.0
# Trimming one record at a time would cost a call for each commit.
_SLACK: Final = RECORDS_KEPT // 2

_log = structlog.get_logger(__name__)


class Sweeper:
    """One task; everything it does may be cut off at any point and done again."""

    def __init__(
        self,
        catalog: Catalog,
        blobs: BlobStore,
        staging: Staging,
        committer: Committer,
        pins: Pins,
        upkeep: Upkeep,
        clock: Clock,
    ) -> None:
        self._catalog = catalog
        self._blobs = blobs
        self._staging = staging
        self._committer = committer
        self._pins = pins
        self._upkeep = upkeep
        self._clock = clock
        self._written: set[AgentName] = set()
        self._untidy: set[str] = set()
        self._unrepaired: set[str] = set()
        self._wake = asyncio.Event()
        # Told of each agent's newest record that a round comes by.
        self.found: Callable[[Snapshot], None] = lambda snapshot: None

    def note_written(self, snapshot: Snapshot) -> None:
        """The agent has a new generation."""
        self._written.add(snapshot.agent)

    def note_deleted(self, town: str) -> None:
        """Segments of the town may be nobody's now; the next round is at once."""
        self._untidy.add(town)
        self._wake.set()

    async def start(self) -> None:
        """Repairs every agent; a store that cannot be read stops the start."""
        self._unrepaired = set(await all_towns(self._catalog, self._blobs))
        for town in sorted(self._unrepaired):
            async with self._upkeep.turn(town) as turn:
                if turn:
                    await self._repair_town(town)

    async def run(self) -> None:
        """Sweeps until it is cancelled; trouble waits for the next round."""
        next_full = self._clock.monotonic() + SWEEP_ALL_EVERY_S
        while True:
            try:
                async with asyncio.timeout(SWEEP_EVERY_S):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            full = self._clock.monotonic() >= next_full
            if full:
                next_full = self._clock.monotonic() + SWEEP_ALL_EVERY_S
            try:
                await self.sweep(full=full)
            except ServiceError as error:
                _log.warning(Event.SWEEP_FAILED, error=str(error))
            except Exception:  # the root of a task: a defect must not end it unseen
                _log.exception(Event.SWEEP_FAILED)

    async def sweep(self, *, full: bool = False) -> None:
        """One round over what changed, or over everything."""
        if expired := await self._staging.expire():
            _log.info(Event.UPLOADS_EXPIRED, uploads=expired)
        if full:
            towns = set(await all_towns(self._catalog, self._blobs))
            self._unrepaired |= towns
            self._untidy |= towns
            for town in towns:
                self._written |= set(await self._agents(town))
        dirty = {agent.town for agent in self._written}
        failed: ServiceError | None = None
        for town in sorted(dirty | self._untidy | self._unrepaired):
            try:
                async with self._upkeep.turn(town) as turn:
                    if turn:
                        await self._clean(town, turn)
            except ServiceError as error:
                # What is wrong with one town must not leave the others untidy.
                failed = error
        if failed is not None:
            raise failed

    async def _clean(self, town: str, turn: str) -> None:
        """What is written to meanwhile, or not reached, is the next round's."""
        if town in self._unrepaired:
            await self._repair_town(town)
        for agent in {agent for agent in self._written if agent.town == town}:
            self._written.discard(agent)
            try:
                await self._thin(agent)
            except BaseException:
                self._written.add(agent)
                raise
        if town in self._untidy:
            self._untidy.discard(town)
            try:
                await self._collect(town, turn)
            except BaseException:
                self._untidy.add(town)
                raise

    async def _repair_town(self, town: str) -> None:
        for agent in await self._agents(town):
            await self._repair(agent)
        self._unrepaired.discard(town)

    async def _thin(self, agent: AgentName) -> None:
        """Applies retention, then moves old records out of the catalog."""
        entries = await self._catalog.entries(agent)
        now_us = records.microseconds(self._clock.now())
        for event, gone in (
            (
                Event.GENERATIONS_DROPPED,
                await self._catalog.drop(agent, to_drop(entries, now_us)),
            ),
            (Event.GENERATIONS_PURGED, await self._catalog.purge(agent, now_us)),
        ):
            await unrecord(self._catalog, self._blobs, agent, gone)
            if gone:
                _log.info(event, agent=str(agent), generations=len(gone))
        kept = await self._catalog.recent(agent)
        if kept:
            self.found(kept[-1])
        if len(kept) > RECORDS_KEPT + _SLACK:
            old = kept[:-RECORDS_KEPT]
            for snapshot in old:
                await self._committer.record(snapshot)
            await self._catalog.trim(agent, old)

    async def _collect(self, town: str, turn: str) -> None:
        removed = await collect(
            town, self._catalog, self._blobs, self._pins, self._upkeep, turn
        )
        if removed:
            _log.info(Event.SEGMENTS_COLLECTED, town=town, segments=removed)

    async def _repair(self, agent: AgentName) -> None:
        # First what is stored, then what is known: a commit is known before it is
        # stored, so one that comes in between looks like no loss.
        stored = await stored_generations(self._blobs, agent)
        state, _ = await self._catalog.look(agent)
        if stored and stored[-1] > state.last:
            await reindex(self._catalog, self._blobs, agent)
            return
        if state.head is not None:
            await revised(self._catalog, self._blobs, state.head)
        known = set(stored)
        recent = await self._catalog.recent(agent)
        if recent:
            self.found(recent[-1])
        for snapshot in recent:
            if snapshot.generation not in known:
                await self._committer.record(snapshot)
                known.add(snapshot.generation)
                _log.warning(Event.RECORD_REPAIRED, name=snapshot.name)
            elif snapshot.revision:
                # Its record may be the one from before; only few were changed.
                await self._committer.record(snapshot)
        forgotten = await self._catalog.forgotten(agent, sorted(known))
        # Asked again: a catalog that was lost meanwhile says nothing of deletions.
        state, _ = await self._catalog.look(agent)
        if stored and stored[-1] > state.last:
            await reindex(self._catalog, self._blobs, agent)
            return
        if forgotten:
            await unrecord(self._catalog, self._blobs, agent, forgotten)
            self._untidy.add(agent.town)

    async def _agents(self, town: str) -> list[AgentName]:
        stored = await self._blobs.list(records.agent_folder(town))
        known = {*stored, *await self._catalog.agents(town)}
        return [AgentName(town, agent) for agent in records.ids(known)]
