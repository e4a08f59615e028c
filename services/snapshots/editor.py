"""Changes what is said about a generation: the catalog's one step, then its record in
the blob store, as a commit does; from that one the catalog can be rebuilt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from services.chassis.clock import Clock
from services.chassis.errors import Reason, ServiceError
from services.chassis.names import AgentName
from services.snapshots.amendment import Amendment, check_etag, deleted, undeleted
from services.snapshots.commit import Committer
from services.snapshots.generations import Claim, Snapshot
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
    clock: Clock
    purge_after_s: float

    async def amend(
        self, agent: AgentName, generation: int, amendment: Amendment, etag: str
    ) -> Snapshot:
        """The record as it is then. Raises SNAPSHOT_NOT_FOUND, ETAG_MISMATCH."""
        _, found = await self._change(agent, generation, amendment.applied, etag=etag)
        return found

    async def delete(
        self,
        agent: AgentName,
        generation: int,
        claim: Claim,
        if_generation_match: int | None,
    ) -> tuple[bool, Snapshot]:
        """Whether it was deleted now, and its record. Raises SNAPSHOT_NOT_FOUND,
        SNAPSHOT_HELD, LEASE_FENCED, GENERATION_MISMATCH."""
        now = self.clock.now()
        return await self._change(
            agent,
            generation,
            lambda old: deleted(old, now, self.purge_after_s),
            claim=claim,
            if_generation_match=if_generation_match,
        )

    async def undelete(self, agent: AgentName, generation: int) -> Snapshot:
        """The record as it is then. Raises SNAPSHOT_NOT_FOUND."""
        _, found = await self._change(agent, generation, undeleted)
        return found

    async def _change(
        self,
        agent: AgentName,
        generation: int,
        changed: Callable[[Snapshot], Snapshot],
        *,
        etag: str = "",
        claim: Claim | None = None,
        if_generation_match: int | None = None,
    ) -> tuple[bool, Snapshot]:
        """Whether anything changed, and the record as it is then."""
        for _ in range(_TRIES):
            [recent] = await self.catalog.records(agent, [generation])
            old = recent or await self.shelf.snapshot(agent, generation)
            new = changed(old)
            if new == old:
                # Maybe by a call whose answer was lost.
                return False, await self.committer.acknowledge(old)
            check_etag(old, etag)
            if await self.catalog.revise(
                agent, recent, new, claim, if_generation_match
            ):
                await self.committer.record(new)
                return True, new
        raise ServiceError(
            Reason.ETAG_MISMATCH,
            f"cannot change {agent}/snapshots/{generation}: others change it all the "
            "time; try again",
        )
