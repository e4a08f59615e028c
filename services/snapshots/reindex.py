"""Brings a catalog that is older than the blob store up to date, agent by agent.

Redis can come back from a copy, or empty; records in the blob store are for ever.
"""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from services.chassis.errors import Reason, ServiceError
from services.chassis.names import AgentName
from services.chassis.telemetry import Event
from services.snapshots import records
from services.snapshots.generations import Snapshot
from services.snapshots.store import BlobMissing, BlobStore, Catalog

_READS_AT_ONCE: Final = 16

_log = structlog.get_logger(__name__)


async def reindex(catalog: Catalog, blobs: BlobStore, agent: AgentName) -> None:
    """Adopts every record of the agent that the blob store has."""
    snapshots = await stored_records(blobs, agent)
    if snapshots and await catalog.adopt(agent, snapshots):
        _log.warning(
            Event.AGENT_REINDEXED,
            agent=str(agent),
            generations=len(snapshots),
            head=snapshots[-1].generation,
        )


async def revised(catalog: Catalog, blobs: BlobStore, head: Snapshot) -> bool:
    """Brings the head's record up to date on whichever side lacks a compaction; whether
    that was the catalog. The earlier one names segments that may be gone, or would stay
    for nothing."""
    key = records.record_key(head.agent, head.generation)
    try:
        text = await blobs.read(key)
        stored = records.from_json(text)
    except (BlobMissing, ValueError):
        return False  # there is nothing to go by
    if stored.revision == head.revision:
        return False
    if stored.revision > head.revision:
        if stored.deletion is not None:
            # What is the newest state there is stays the head, whatever it was once.
            return False
        _log.warning(Event.RECORD_REPAIRED, name=head.name)
        return await catalog.revise(head.agent, head, stored)
    # Whoever compacted it died between the catalog's step and the record.
    text_now = records.to_json(head).encode()
    same = stored.origin.upload_id == head.origin.upload_id
    if same and await blobs.swap(key, text, text_now):
        _log.warning(Event.RECORD_REPAIRED, name=head.name)
    return False


async def stored_records(blobs: BlobStore, agent: AgentName) -> list[Snapshot]:
    """All records of the agent in the blob store, oldest first.

    Raises SNAPSHOT_CORRUPT: whoever acts on the whole must have all of it.
    """
    turn = asyncio.Semaphore(_READS_AT_ONCE)

    async def read(generation: int) -> Snapshot | None:
        key = records.record_key(agent, generation)
        try:
            async with turn:
                return records.from_json(await blobs.read(key))
        except BlobMissing:
            return None  # deleted since it was listed
        except ValueError as error:
            raise ServiceError(
                Reason.SNAPSHOT_CORRUPT,
                f"cannot read the record {key}: restore it from a copy",
                record=key,
            ) from error

    generations = await stored_generations(blobs, agent)
    found = await asyncio.gather(*map(read, generations))
    return [snapshot for snapshot in found if snapshot is not None]


async def stored_generations(blobs: BlobStore, agent: AgentName) -> list[int]:
    """Generations that have a record in the blob store, ascending."""
    names = await blobs.list(records.record_folder(agent))
    found = [records.generation_of(name) for name in names]
    return sorted(generation for generation in found if generation is not None)
