"""Another agent of the town begins where this one stood: a record more, no data."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from services.chassis.clock import Clock
from services.chassis.errors import Reason, ServiceError
from services.chassis.names import AgentName
from services.snapshots.commit import Committer
from services.snapshots.generations import Claim, Snapshot, check_match
from services.snapshots.pins import Pins
from services.snapshots.shelf import Shelf
from services.snapshots.store import Catalog

# Each lost race means that the source was compacted or the target claimed.
_TRIES: Final = 10


@dataclass(frozen=True, slots=True)
class Forker:
    """Its commits are the ones of uploads, but for the upload."""

    catalog: Catalog
    shelf: Shelf
    committer: Committer
    pins: Pins
    clock: Clock

    async def fork(
        self, source: AgentName, generation: int, target: AgentName, request_id: str
    ) -> Snapshot:
        """The target's new head. Raises SNAPSHOT_NOT_FOUND, GENERATION_MISMATCH if it
        has a snapshot, UPLOAD_REUSED."""
        check_target(source, target)
        state, known = await self.catalog.look(target, request_id)
        if known is not None:
            if known.agent != target.agent:
                raise ServiceError(
                    Reason.UPLOAD_REUSED,
                    f"cannot fork to {target}: request id {request_id} was used for "
                    f"{known.agent}; choose a new one",
                    upload_id=request_id,
                )
            made = await self.shelf.live(target, known.generation)
            return await self.committer.acknowledge(made)
        for _ in range(_TRIES):
            check_match(target, state.head_generation, 0)
            found = await self.shelf.live(source, generation)
            digests = [segment.blake3 for segment in found.content.segments]
            async with self.pins.holding(source.town, digests):
                # Held before it is seen again, they stay until the new record is there.
                if found != await self.shelf.live(source, generation):
                    continue
                made = replace(
                    found,
                    agent=target,
                    generation=state.last + 1,
                    origin=replace(found.origin, upload_id=request_id),
                    epoch=state.epoch,
                    instance="",
                    create_time=self.clock.now(),
                    revision=0,
                    hold=False,
                )
                claim = Claim(state.epoch)
                entered = await self.catalog.commit(made, claim, 0, state.revision)
                if entered is not None:
                    self.committer.committed(entered)
                    await self.committer.record(entered)
                    return entered
            state, _ = await self.catalog.look(target)
        raise ServiceError(
            Reason.GENERATION_MISMATCH,
            f"cannot fork to {target}: others write it all the time; try again",
            generation=state.head_generation,
        )


def check_target(source: AgentName, target: AgentName) -> None:
    """A fork stays in its town, as segments do."""
    if source.town != target.town or source == target:
        raise ServiceError(
            Reason.FIELD_INVALID,
            f"cannot fork {source} to {target}: give another agent of its town",
            field="target",
        )
