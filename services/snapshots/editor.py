"""Changes what is said about a generation: the catalog's one step, then its record in
the blob store, as a commit does; from that one the catalog can be rebuilt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from services.chassis.errors import Reason, ServiceError
from services.chassis.names import AgentName
from services.snapshots.amendment import Amendment, check_etag
from services.snapshots.commit import Committer
from services.snapshots.generations import Snapshot
from services.snapshots.shelf import Shelf
from services.snapshots.store import Catalog

# Each lost race means that the record was changed by another, or moved to the blobs.
_TRIES: Final = 10


@dataclass(frozen=True, slots=True)
class Editor:
    """All changes but those of a compaction."""

    catalog: Catalog
    shelf: Shelf
    committer: Committer

    async def amend(
        self, agent: AgentName, generation: int, amendment: Amendment, etag: str
    ) -> Snapshot:
        """The record as it is then. Raises SNAPSHOT_NOT_FOUND, ETAG_MISMATCH."""
        for _ in range(_TRIES):
            [recent] = await self.catalog.records(agent, [generation])
            old = recent or await self.shelf.snapshot(agent, generation)
            new = amendment.applied(old)
            if new == old:
                # Maybe by a call whose answer was lost.
                return await self.committer.acknowledge(old)
            check_etag(old, etag)
            if await self.catalog.revise(agent, recent, new):
                await self.committer.record(new)
                return new
        raise ServiceError(
            Reason.ETAG_MISMATCH,
            f"cannot change {agent}/snapshots/{generation}: others change it all the "
            "time; try again",
        )
