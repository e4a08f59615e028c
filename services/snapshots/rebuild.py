"""Rebuilds the catalog of a town from the records in the blob store, when asked to.

Order for each agent: fence its owner → look → what the catalog knows → every record →
adopt all of it, if nothing changed since the look; else once more → write the records
that are missing. What is on its way from the catalog to the blob store, a commit or a
change, is carried along. A record that came before the catalog's step could bring back
what was deleted meanwhile; one that comes after it is a debt like that of a commit.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import structlog

from services.chassis.clock import Clock
from services.chassis.errors import Reason, ServiceError
from services.chassis.names import AgentName
from services.chassis.telemetry import Event
from services.snapshots import records
from services.snapshots.generations import Snapshot
from services.snapshots.recording import record
from services.snapshots.reindex import stored_records
from services.snapshots.store import BlobStore, Catalog

# A record follows its commit within seconds, or by the next start's repair.
ON_ITS_WAY: Final = timedelta(minutes=10)
_TRIES: Final = 20

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What is known of an agent now."""

    agent: AgentName
    generations: int
    head: int
    epoch: int


@dataclass(frozen=True, slots=True)
class Rebuilder:
    """Safe beside everything else: owners claim again, changes make it try again."""

    catalog: Catalog
    blobs: BlobStore
    clock: Clock

    async def town(self, town: str) -> AsyncIterator[Rebuilt]:
        """Every agent of the town. One that cannot be rebuilt is told of after the
        others."""
        stored = await self.blobs.list(records.agent_folder(town))
        failed: ServiceError | None = None
        for agent in records.ids({*stored, *await self.catalog.agents(town)}):
            try:
                yield await self.agent(AgentName(town, agent))
            except ServiceError as error:
                failed = failed or error
        if failed is not None:
            raise failed

    async def agent(self, agent: AgentName) -> Rebuilt:
        """Raises SNAPSHOT_CORRUPT if a record cannot be read; then it is fenced, and
        its catalog as it was."""
        await self.catalog.fence(agent)
        for _ in range(_TRIES):
            state, _ = await self.catalog.look(agent)
            # The catalog first: what it forgets meanwhile is in the blob store by then.
            recent = await self.catalog.recent(agent)
            stored = await stored_records(self.blobs, agent)
            snapshots = merged(recent, stored, self.clock.now())
            if recent and not stored:
                # All of it was deleted, or these are not its records: a folder that
                # is not mounted looks empty too.
                await self.blobs.check()
            there = set(stored)
            owed = [each for each in snapshots if each not in there]
            if await self.catalog.adopt(agent, snapshots, state.changes, owed):
                for snapshot in owed:
                    await record(self.catalog, self.blobs, snapshot)
                state, _ = await self.catalog.look(agent)
                found = Rebuilt(
                    agent, len(snapshots), state.head_generation, state.epoch
                )
                _log.warning(
                    Event.AGENT_REINDEXED,
                    agent=str(agent),
                    generations=found.generations,
                    head=found.head,
                    epoch=found.epoch,
                )
                return found
        raise ServiceError(
            Reason.STORE_UNAVAILABLE,
            f"cannot rebuild what is known of {agent}: it changes all the time; try "
            "again",
            name=agent,
        )


def merged(
    recent: Sequence[Snapshot], stored: Sequence[Snapshot], now: datetime
) -> list[Snapshot]:
    """All generations, oldest first, each by its latest record. The blob store decides
    which there are, but for those whose record may be on its way: that were committed
    a short time ago, or after all that it has, as the head is never deleted alone.

    Of an agent without any record that says nothing. All of it was deleted, maybe since
    the copy was made that the catalog came back from, and must not come back with it;
    or it never had a record, and then no commit of it was ever acknowledged.
    """
    found = {snapshot.generation: snapshot for snapshot in stored}
    newest = max(found, default=0)
    for known in recent:
        there = found.get(known.generation)
        if there is None:
            later = 0 < newest < known.generation
            if later or known.create_time > now - ON_ITS_WAY:
                found[known.generation] = known
        elif _same(known, there) and known.revision > there.revision:
            found[known.generation] = known
    return [found[generation] for generation in sorted(found)]


def _same(one: Snapshot, other: Snapshot) -> bool:
    return (one.origin.upload_id, one.create_time) == (
        other.origin.upload_id,
        other.create_time,
    )
