"""Reads every stored segment again, slowly, and marks those that have rotted.

A pass over a town takes the whole period: each minute comes what is due by then, at a
bounded rate, by one replica. What is marked is built upon no more: the next save is a
base then, and the head is whole again before anybody needs it.
"""

from __future__ import annotations

import asyncio
from enum import StrEnum
from typing import Final

import structlog
from blake3 import blake3

from services.chassis.clock import Clock
from services.chassis.errors import ServiceError
from services.chassis.names import AgentName
from services.chassis.telemetry import SEGMENTS_SCRUBBED, Event
from services.snapshots import records
from services.snapshots.collection import all_towns, named_segments, stored_segments
from services.snapshots.disk_work import in_thread
from services.snapshots.rot import PARTS, Place, Rot, RotLog, due
from services.snapshots.store import BlobMissing, BlobStore, Catalog
from services.snapshots.upkeep import Upkeep

LOOK_EVERY_S: Final = 60.0
# What agents that save at the same time do not notice on a slow disk.
BYTES_PER_S: Final = 20 << 20
# A fault of the way there is no rot.
_READS: Final = 2
TURN: Final = "scrub-turn"

_log = structlog.get_logger(__name__)


class Found(StrEnum):
    """What a segment was found to be."""

    SOUND = "sound"
    ROTTEN = "rotten"
    GONE = "gone"


class Scrubber:
    """One task, cut off at any point; without a period it only reads the marks."""

    def __init__(
        self,
        catalog: Catalog,
        blobs: BlobStore,
        upkeep: Upkeep,
        rot: Rot,
        log: RotLog,
        clock: Clock,
        *,
        period_s: float,
        bytes_per_s: float = BYTES_PER_S,
    ) -> None:
        self._catalog = catalog
        self._blobs = blobs
        self._upkeep = upkeep
        self._rot = rot
        self._marks = log
        self._clock = clock
        self._period_us = round(period_s * 1_000_000)
        self._bytes_per_s = bytes_per_s

    async def start(self) -> None:
        """Reads the marks, so that the first commit minds them."""
        for town in await all_towns(self._catalog, self._blobs):
            await self._rot.look(town)

    async def run(self) -> None:
        """Scrubs until it is cancelled; trouble waits for the next round."""
        while True:
            try:
                await self.round()
            except ServiceError as error:
                _log.warning(Event.SCRUB_FAILED, error=str(error))
            except Exception:  # the root of a task: a defect must not end it unseen
                _log.exception(Event.SCRUB_FAILED)
            await asyncio.sleep(LOOK_EVERY_S)

    async def round(self) -> None:
        """All that is due, in every town. Trouble with one is told after the others."""
        failed: ServiceError | None = None
        for town in await all_towns(self._catalog, self._blobs):
            try:
                await self._catch_up(town)
            except ServiceError as error:
                failed = error
        if failed is not None:
            raise failed

    async def _catch_up(self, town: str) -> None:
        await self._rot.look(town)
        if await self._due(town) is None:
            return
        async with self._upkeep.turn(town, TURN) as turn:
            while turn and (place := await self._due(town)):
                await self._step(town, place.done)
                done = Place(place.begun_us, place.done + 1)
                await self._marks.put_place(town, done)

    async def _due(self, town: str) -> Place | None:
        if not self._period_us:
            return None
        now_us = records.microseconds(self._clock.now())
        return due(await self._marks.place(town), now_us, self._period_us)

    async def _step(self, town: str, step: int) -> None:
        if step == PARTS:
            await self._compare(town)
            return
        folder = f"{records.segment_folder(town)}/{step:02x}"
        for name in await self._blobs.list(folder):
            digest = records.digest_of(name)
            if digest is not None:
                await self._look_at(town, digest)

    async def _look_at(self, town: str, digest: bytes) -> None:
        found = await self._found(town, digest)
        SEGMENTS_SCRUBBED.labels(found).inc()
        if found is Found.ROTTEN:
            await self._mark(town, digest, found)
        elif found is Found.SOUND:
            await self._rot.heal(town, [digest])
        # One that went meanwhile was collected; what else is gone, `_compare` tells.

    async def _compare(self, town: str) -> None:
        """Names without a segment are marked, marks without a name forgotten."""
        named = await named_segments(town, self._catalog, self._blobs)
        stored = set(await stored_segments(town, self._blobs))
        gone = {
            digest
            for digest in named - stored
            if await self._found(town, digest) is Found.GONE
        }
        if gone:
            # Retention, deletions and compactions go on beside this: what they took
            # since the names were read is named no more.
            gone &= await named_segments(town, self._catalog, self._blobs)
        for digest in sorted(gone):
            SEGMENTS_SCRUBBED.labels(Found.GONE).inc()
            await self._mark(town, digest, Found.GONE)
        await self._rot.heal(town, self._rot.of(town) - named)

    async def _found(self, town: str, digest: bytes) -> Found:
        key = records.segment_key(town, digest)
        for _ in range(_READS):
            try:
                if await self._digest(key) == digest:
                    return Found.SOUND
            except BlobMissing:
                return Found.GONE
        return Found.ROTTEN

    async def _digest(self, key: str) -> bytes:
        digest = blake3()
        async for part in self._blobs.stored(key):
            await in_thread(digest.update, part)
            await asyncio.sleep(len(part) / self._bytes_per_s)
        return digest.digest()

    async def _mark(self, town: str, digest: bytes, found: Found) -> None:
        if digest in self._rot.of(town):
            return
        await self._rot.mark(town, digest)
        _log.error(
            Event.SEGMENT_ROTTEN,
            town=town,
            segment=digest.hex(),
            found=found,
            heads=await self._heads(town, digest),
        )

    async def _heads(self, town: str, digest: bytes) -> list[str]:
        """Agents whose head cannot be read now, until their next save."""
        heads = []
        for agent in records.ids(await self._catalog.agents(town)):
            state, _ = await self._catalog.look(AgentName(town, agent))
            segments = state.head.content.segments if state.head else ()
            if any(segment.blake3 == digest for segment in segments):
                heads.append(agent)
        return heads
