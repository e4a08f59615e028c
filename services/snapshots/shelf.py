"""Reads what was committed: one record, the newest, a page of them; forgets them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from services.chassis.errors import Reason, ServiceError
from services.chassis.names import AgentName
from services.snapshots import records
from services.snapshots.generations import (
    AgentState,
    Claim,
    Snapshot,
    absent,
    check_live,
)
from services.snapshots.recording import unrecord
from services.snapshots.reindex import reindex, revised, stored_generations
from services.snapshots.store import BlobMissing, BlobStore, Catalog

PAGE_SIZE: Final = 50
PAGE_SIZE_MAX: Final = 500
# Old records are read from the blob store, so many at a time.
_READS_AT_ONCE: Final = 16


@dataclass(frozen=True, slots=True)
class Page:
    """Records, newest first; `below` starts the next page, None ends."""

    snapshots: list[Snapshot]
    below: int | None


def _nobody(town: str) -> None:
    """Until somebody wants to be told."""


class Shelf:
    """All generations that exist."""

    def __init__(self, catalog: Catalog, blobs: BlobStore) -> None:
        self._catalog = catalog
        self._blobs = blobs
        # Told of each town where something was deleted.
        self.deleted: Callable[[str], None] = _nobody

    async def state(self, agent: AgentName) -> AgentState:
        state, _ = await self._catalog.look(agent)
        return state

    async def advance(self, agent: AgentName, claim: Claim) -> AgentState:
        """Fences earlier owners. Raises LEASE_FENCED.

        Whoever starts an agent must not miss what a catalog lost that came back from
        an old copy, so the records in the blob store have a say.
        """
        state = await self._catalog.advance(agent, claim)
        stored = await stored_generations(self._blobs, agent)
        if not stored or stored[-1] <= state.last:
            if state.head is None or not await revised(
                self._catalog, self._blobs, state.head
            ):
                return state
            return await self._catalog.advance(agent, claim)
        # A commit of this owner that was under way is known before it is stored.
        state, _ = await self._catalog.look(agent)
        if stored[-1] <= state.last:
            return state
        await reindex(self._catalog, self._blobs, agent)
        return await self._catalog.advance(agent, claim)

    async def snapshot(self, agent: AgentName, generation: int) -> Snapshot:
        """That generation, deleted or not. Raises SNAPSHOT_NOT_FOUND."""
        [recent] = await self._catalog.records(agent, [generation])
        if recent is not None:
            return recent
        if not await self._listed(agent, generation):
            raise absent(agent, generation)
        return await self._older(agent, generation)

    async def live(self, agent: AgentName, generation: int) -> Snapshot:
        """That generation, to be used. Raises SNAPSHOT_NOT_FOUND if it is deleted."""
        found = await self.snapshot(agent, generation)
        check_live(found)
        return found

    async def at(self, agent: AgentName, moment_us: int) -> Snapshot:
        """The newest that was there at that time. Raises SNAPSHOT_NOT_FOUND."""
        for entry in await self._catalog.entries(agent):
            if entry.create_time_us <= moment_us:
                return await self.snapshot(agent, entry.generation)
        raise absent(agent, None)

    async def page(
        self, agent: AgentName, below: int | None, size: int, *, deleted: bool = False
    ) -> Page:
        size = min(size or PAGE_SIZE, PAGE_SIZE_MAX)
        entries = await self._catalog.entries(
            agent, below=below, count=size + 1, deleted=deleted
        )
        generations = [entry.generation for entry in entries[:size]]
        snapshots = await self.snapshots(agent, generations)
        return Page(snapshots, generations[-1] if len(entries) > size else None)

    async def snapshots(
        self, agent: AgentName, generations: Sequence[int]
    ) -> list[Snapshot]:
        """Those of the generations that are still there."""
        recent = await self._catalog.records(agent, generations)
        turn = asyncio.Semaphore(_READS_AT_ONCE)

        async def found(generation: int, known: Snapshot | None) -> Snapshot | None:
            if known is not None:
                return known
            async with turn:
                try:
                    return await self._older(agent, generation)
                except ServiceError as error:
                    if error.reason is not Reason.SNAPSHOT_CORRUPT:
                        raise
                    # Deleted between the two reads, or truly lost: the index knows.
                    if await self._listed(agent, generation):
                        raise
                    return None

        pairs = zip(generations, recent, strict=True)
        found_all = await asyncio.gather(*(found(*pair) for pair in pairs))
        return [snapshot for snapshot in found_all if snapshot is not None]

    async def delete(
        self,
        agent: AgentName,
        generation: int | None,
        claim: Claim,
        if_generation_match: int | None,
    ) -> Sequence[int]:
        """Forgets one generation or all, at once and for good; the pointer goes first,
        then the record, then a pointer that was rebuilt from it meanwhile."""
        gone = await self._catalog.delete(agent, generation, claim, if_generation_match)
        await unrecord(self._catalog, self._blobs, agent, gone)
        self.deleted(agent.town)
        return gone

    async def _listed(self, agent: AgentName, generation: int) -> bool:
        entries = await self._catalog.entries(
            agent, below=generation + 1, count=1, deleted=True
        )
        return bool(entries) and entries[0].generation == generation

    async def _older(self, agent: AgentName, generation: int) -> Snapshot:
        key = records.record_key(agent, generation)
        try:
            return records.from_json(await self._blobs.read(key))
        except (BlobMissing, ValueError) as error:
            raise ServiceError(
                Reason.SNAPSHOT_CORRUPT,
                f"cannot read the record of {agent}/snapshots/{generation}: restore "
                f"{key} from a copy of the blob store, or use another generation",
                name=f"{agent}/snapshots/{generation}",
                record=key,
            ) from error
