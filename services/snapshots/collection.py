"""Removes segments that no record of their town names any more.

Order: watch what gets used from now on → read every record → list the segments →
remove those that neither a record names nor anybody used, when the upkeep says that
they are due. A record that cannot be read ends the round: what it names would look
like nobody's.
"""

from __future__ import annotations

from services.chassis.names import AgentName
from services.snapshots import records
from services.snapshots.pins import Pins
from services.snapshots.reindex import stored_records
from services.snapshots.store import BlobStore, Catalog
from services.snapshots.upkeep import Upkeep


async def collect(
    town: str,
    catalog: Catalog,
    blobs: BlobStore,
    pins: Pins,
    upkeep: Upkeep,
    turn: str,
) -> int:
    """One round over a town, in this replica's turn; how many segments are gone."""
    removed = 0
    with pins.watching() as used:
        named = await named_segments(town, catalog, blobs)
        stored = await stored_segments(town, blobs)
        kept = named | {digest for where, digest in used if where == town}
        for digest in await upkeep.due(town, kept, set(stored) - kept):
            if (town, digest) in used:
                continue
            with pins.removing((town, digest)) as free:
                if free and await upkeep.condemn(town, turn, digest):
                    await blobs.delete(records.segment_key(town, digest))
                    await upkeep.removed(town, digest)
                    removed += 1
    return removed


async def named_segments(town: str, catalog: Catalog, blobs: BlobStore) -> set[bytes]:
    """Digests of all segments that some record names."""
    known = set(await catalog.agents(town))
    known.update(await blobs.list(records.agent_folder(town)))
    named: set[bytes] = set()
    for agent in records.ids(known):
        name = AgentName(town, agent)
        # The catalog first: what it forgets meanwhile is in the blob store by then.
        recent = await catalog.recent(name)
        for snapshot in (*recent, *await stored_records(blobs, name)):
            named.update(segment.blake3 for segment in snapshot.content.segments)
    return named


async def stored_segments(town: str, blobs: BlobStore) -> list[bytes]:
    """Digests of all that there are."""
    folder = records.segment_folder(town)
    found = [
        records.digest_of(name)
        for part in await blobs.list(folder)
        for name in await blobs.list(f"{folder}/{part}")
    ]
    return [digest for digest in found if digest is not None]


async def all_towns(catalog: Catalog, blobs: BlobStore) -> list[str]:
    """Towns that either store knows."""
    stored = await blobs.list(records.TOWNS)
    return records.ids({*stored, *await catalog.towns()})
