"""Records in the blob store: written at each commit, kept up when they change.

The catalog decides what a record says; the blob store's copy is what it can be rebuilt
from, and may lag behind it while a process dies or two of them race.
"""

from __future__ import annotations

from collections.abc import Sequence

from services.chassis.errors import Reason, ServiceError
from services.chassis.names import AgentName
from services.snapshots import records
from services.snapshots.generations import Snapshot
from services.snapshots.reindex import reindex
from services.snapshots.store import BlobMissing, BlobStore, Catalog


async def record(catalog: Catalog, blobs: BlobStore, snapshot: Snapshot) -> None:
    """Puts the record beside the segments, unless a later revision of it is there or
    the generation is forgotten."""
    if await _written(catalog, blobs, snapshot):
        # Whoever forgot it since the catalog's step may have looked for its record
        # before there was this one, from which it would come back one day.
        gone = await catalog.forgotten(snapshot.agent, [snapshot.generation])
        await unrecord(catalog, blobs, snapshot.agent, gone)


async def unrecord(
    catalog: Catalog, blobs: BlobStore, agent: AgentName, forgotten: Sequence[int]
) -> None:
    """Removes the records of what the catalog forgot, then what was rebuilt from them
    meanwhile."""
    for generation in forgotten:
        await blobs.delete(records.record_key(agent, generation))
    await catalog.forget(agent, forgotten)


async def _written(catalog: Catalog, blobs: BlobStore, snapshot: Snapshot) -> bool:
    """False if it was there before, or a later one is."""
    key = records.record_key(snapshot.agent, snapshot.generation)
    text = records.to_json(snapshot).encode()
    while not await blobs.create(key, text):
        try:
            stored = await blobs.read(key)
        except BlobMissing:
            continue
        if stored == text:
            return False
        revision = _revision(snapshot, stored)
        if revision is None:
            await reindex(catalog, blobs, snapshot.agent)
            raise ServiceError(
                Reason.STORE_UNAVAILABLE,
                f"cannot record {snapshot.name}: the blob store has another record of "
                "it, so the catalog had lost some; claim the agent again",
                name=snapshot.name,
            )
        if revision >= snapshot.revision:
            return False
        if await blobs.swap(key, stored, text):
            return True
    return True


def _revision(snapshot: Snapshot, stored: bytes) -> int | None:
    """Of the stored record; None if it is about another generation."""
    try:
        found = records.from_json(stored)
    except ValueError:
        return None  # reading all of them will say what is wrong
    if found.origin.upload_id != snapshot.origin.upload_id:
        return None
    return found.revision if found.create_time == snapshot.create_time else None
