"""Reads what was committed: one record, the newest, a page of them; deletes them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from services.chassis.errors import Reason, ServiceError
from services.chassis.names import AgentName
from services.snapshots import records
from services.snapshots.generations import AgentState, Claim, Snapshot, absent
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
        """That generation. Raises SNAPSHOT_NOT_FOUND."""
        [recent] = await self._catalog.records(agent, [generation])
        if recent is not None:
            return recent
        entries = await self._catalog.entries(agent, below=generation + 1, count=1)
        if not entries or entries[0].generation != generation:
            raise absent(agent, generation)
        return await self._older(agent, generation)

    async def at(self, agent: AgentName, moment_us: int) -> Snapshot:
        """The newest that was there at that time. Raises SNAPSHOT_NOT_FOUND."""
        for entry in await self._catalog.entries(agent):
            if entry.create_time_us <= moment_us:
                return await self.snapshot(agent, entry.generation)
        raise absent(agent, None)

    async def page(self, agent: AgentName, below: int | None, size: int) -> Page:
        size = min(size or PAGE_SIZE, PAGE_SIZE_MAX)
        entries = await self._catalog.entries(agent, below=below, count=size + 1)
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
                    await self._refuse_if_listed(agent, generation, error)
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
        """Forgets one generation or all; the pointer goes first, then the record."""
        gone = await self._catalog.delete(agent, generation, claim, if_generation_match)
        for each in gone:
            await self._blobs.delete(records.record_key(agent, each))
        self.deleted(agent.town)
        return gone

    async def _refuse_if_listed(
        self, agent: AgentName, generation: int, error: ServiceError
    ) -> None:
        entries = await self._catalog.entries(agent, below=generation + 1, count=1)
        if entries and entries[0].generation == generation:
            raise error

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
