"""A Catalog in memory, whose every change is one step of the event loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from services.chassis.names import AgentName
from services.snapshots import records
from services.snapshots.generations import (
    AgentState,
    Claim,
    Snapshot,
    absent,
    check_advance,
    check_claim,
    check_match,
    head_stays,
    held,
)
from services.snapshots.store import RECORDS_KEPT, Entry, Known
from tests.fakes.pause import Pause


@dataclass
class _Agent:
    state: AgentState = field(default_factory=AgentState)
    times: dict[int, int] = field(default_factory=dict)
    records: dict[int, Snapshot] = field(default_factory=dict)
    uploads: dict[str, int] = field(default_factory=dict)
    # Of records that were changed, wherever they lie: the revision, and who is held.
    revisions: dict[int, int] = field(default_factory=dict)
    held: set[int] = field(default_factory=set)
    # In place of their times: of those that are deleted.
    deleted: dict[int, Entry] = field(default_factory=dict)

    def change(self) -> None:
        self.state = replace(self.state, changes=self.state.changes + 1)

    def mark(self, snapshot: Snapshot) -> None:
        self.revisions[snapshot.generation] = snapshot.revision
        self.held.discard(snapshot.generation)
        if snapshot.hold:
            self.held.add(snapshot.generation)

    def enter(self, snapshot: Snapshot) -> None:
        """Among those that are there, or those that are deleted."""
        generation = snapshot.generation
        created_us = records.microseconds(snapshot.create_time)
        self.times.pop(generation, None)
        self.deleted.pop(generation, None)
        if snapshot.deletion is None:
            self.times[generation] = created_us
        else:
            purge_us = records.microseconds(snapshot.deletion.purge_time)
            self.deleted[generation] = Entry(generation, created_us, purge_us)

    def forget(self, generation: int) -> None:
        for kept in (self.times, self.deleted, self.records, self.revisions):
            kept.pop(generation, None)


class MemoryCatalog:
    """Decides by the rules themselves; Redis's scripts must decide the same."""

    def __init__(self) -> None:
        # Called with the name of the method before and after it; may raise.
        self.before: Callable[[str], None] = lambda method: None
        self.after: Callable[[str], None] = lambda method: None
        self.pause = Pause()
        self._agents: dict[AgentName, _Agent] = {}

    async def advance(self, agent: AgentName, claim: Claim) -> AgentState:
        await self._step("advance")
        known = self._known(agent)
        check_advance(agent, known.state, claim)
        known.state = replace(
            known.state,
            epoch=claim.epoch or 0,
            instance=claim.instance,
            boot_id=claim.boot_id,
        )
        self.after("advance")
        return known.state

    async def look(
        self, agent: AgentName, upload_id: str = ""
    ) -> tuple[AgentState, Known | None]:
        await self._step("look")
        return self._agents.get(agent, _Agent()).state, self._upload(agent, upload_id)

    async def commit(
        self,
        snapshot: Snapshot,
        claim: Claim,
        if_generation_match: int | None,
        revision: int = 0,
    ) -> Snapshot | None:
        await self._step("commit")
        agent, generation = snapshot.agent, snapshot.generation
        upload = self._upload(agent, snapshot.origin.upload_id)
        if upload is not None:
            if upload.agent != agent.agent:
                return None
            return self._agents[agent].records.get(upload.generation)
        known = self._known(agent)
        check_claim(agent, known.state, claim)
        check_match(agent, known.state.head_generation, if_generation_match)
        if (generation, revision) != (known.state.last + 1, known.state.revision):
            return None
        known.state = replace(known.state, last=generation, head=snapshot)
        known.change()
        known.enter(snapshot)
        known.records[generation] = snapshot
        known.uploads[snapshot.origin.upload_id] = generation
        self.after("commit")
        return snapshot

    async def settle(self, agent: AgentName) -> None:
        await self._step("settle")

    async def records(
        self, agent: AgentName, generations: Sequence[int]
    ) -> list[Snapshot | None]:
        await self._step("records")
        known = self._agents.get(agent, _Agent())
        return [known.records.get(generation) for generation in generations]

    async def entries(
        self,
        agent: AgentName,
        *,
        below: int | None = None,
        count: int | None = None,
        deleted: bool = False,
    ) -> Sequence[Entry]:
        await self._step("entries")
        known = self._agents.get(agent, _Agent())
        all_known = {n: Entry(n, time_us) for n, time_us in known.times.items()}
        if deleted:
            all_known |= known.deleted
        found = [
            all_known[generation]
            for generation in sorted(all_known, reverse=True)
            if below is None or generation < below
        ]
        return found[:count]

    async def delete(
        self,
        agent: AgentName,
        generation: int | None,
        claim: Claim,
        if_generation_match: int | None,
    ) -> Sequence[int]:
        await self._step("delete")
        known = self._agents.get(agent, _Agent())
        check_claim(agent, known.state, claim)
        head = known.state.head_generation
        check_match(agent, head, if_generation_match)
        if generation is None:
            if known.held:
                raise held(agent, min(known.held))
            gone = sorted({*known.times, *known.deleted})
            if gone:
                revision = known.state.revision + 1
                known.state = replace(known.state, head=None, revision=revision)
            for each in gone:
                known.forget(each)
            known.uploads.clear()
            if gone:
                known.change()
            return gone
        if generation not in {*known.times, *known.deleted}:
            raise absent(agent, generation)
        if generation == head:
            raise head_stays(agent, head)
        if generation in known.held:
            raise held(agent, generation)
        known.forget(generation)
        known.change()
        return [generation]

    async def drop(self, agent: AgentName, generations: Sequence[int]) -> Sequence[int]:
        await self._step("drop")
        known = self._known(agent)
        kept = {known.state.head_generation, *known.held, *known.deleted}
        gone = [generation for generation in generations if generation not in kept]
        for generation in gone:
            known.forget(generation)
        if gone:
            known.change()
        return gone

    async def purge(self, agent: AgentName, now_us: int) -> Sequence[int]:
        await self._step("purge")
        known = self._known(agent)
        gone = [
            entry.generation
            for entry in known.deleted.values()
            if (entry.purge_time_us or 0) <= now_us
        ]
        for generation in gone:
            known.forget(generation)
        if gone:
            known.change()
        return sorted(gone)

    async def forget(self, agent: AgentName, generations: Sequence[int]) -> None:
        await self._step("forget")
        if not generations:
            return
        known = self._known(agent)
        for generation in generations:
            known.forget(generation)
        known.change()
        head = known.state.head_generation
        if head and head not in known.times:
            newest = known.records.get(max(known.times, default=0))
            revision = known.state.revision + 1
            known.state = replace(known.state, head=newest, revision=revision)

    async def forgotten(
        self, agent: AgentName, generations: Sequence[int]
    ) -> Sequence[int]:
        await self._step("forgotten")
        known = self._agents.get(agent, _Agent())
        had = range(1, known.state.last + 1)
        there = {*known.times, *known.deleted}
        return [each for each in generations if each in had and each not in there]

    async def fence(self, agent: AgentName) -> None:
        await self._step("fence")
        known = self._agents.get(agent, _Agent())
        if known.state.epoch:
            epoch = known.state.epoch + 1
            known.state = replace(known.state, epoch=epoch, instance="", boot_id="")

    async def adopt(
        self,
        agent: AgentName,
        snapshots: Sequence[Snapshot],
        changes: int | None = None,
        owed: Sequence[Snapshot] = (),
    ) -> bool:
        await self._step("adopt")
        state, rebuilds = self._known(agent).state, changes is not None
        if rebuilds and changes != state.changes:
            return False
        last = snapshots[-1].generation if snapshots else 0
        if not rebuilds and state.last > last:
            return False
        live = [each for each in snapshots if each.deletion is None]
        head = live[-1] if live else None
        epoch = max((each.epoch for each in snapshots), default=0)
        same_head = (head.generation if head else 0) == state.head_generation
        bound = bool(state.instance)
        if not (rebuilds and bound and same_head and state.epoch >= epoch):
            least = epoch + 1 if rebuilds and epoch else epoch
            epoch = max(state.epoch, least)
            state = replace(state, epoch=epoch, instance="", boot_id="")
        adopted = self._agents[agent] = _Agent(
            state=replace(
                state,
                last=max(state.last, last),
                head=head,
                revision=state.revision + 1,
                changes=state.changes + 1,
            ),
            uploads={each.origin.upload_id: each.generation for each in snapshots},
        )
        for each in (*live[-1:], *snapshots[-RECORDS_KEPT:], *owed):
            adopted.records[each.generation] = each
        for each in snapshots:
            adopted.enter(each)
            if each.revision:
                adopted.mark(each)
        return True

    async def revise(
        self,
        agent: AgentName,
        old: Snapshot | None,
        new: Snapshot,
        claim: Claim | None = None,
        if_generation_match: int | None = None,
    ) -> bool:
        await self._step("revise")
        known, generation = self._agents.get(agent, _Agent()), new.generation
        if generation not in {*known.times, *known.deleted}:
            raise absent(agent, generation)
        head = known.state.head_generation
        if claim is not None:
            check_claim(agent, known.state, Claim(claim.epoch))
        check_match(agent, head, if_generation_match)
        if new.deletion is not None and generation == head:
            raise head_stays(agent, head)
        now = known.records.get(generation)
        if now not in (old, new):
            return False
        if now is None and known.revisions.get(generation, 0) >= new.revision:
            return False
        known.records[generation] = new
        known.mark(new)
        known.enter(new)
        known.change()
        if new.deletion is None and generation >= head:
            known.state = replace(
                known.state, head=new, revision=known.state.revision + 1
            )
        self.after("revise")
        return True

    async def trim(self, agent: AgentName, snapshots: Sequence[Snapshot]) -> None:
        await self._step("trim")
        known = self._agents.get(agent, _Agent())
        for snapshot in snapshots:
            if known.records.get(snapshot.generation) == snapshot:
                del known.records[snapshot.generation]

    async def recent(self, agent: AgentName) -> Sequence[Snapshot]:
        await self._step("recent")
        found = self._agents.get(agent, _Agent()).records
        return [found[generation] for generation in sorted(found)]

    async def towns(self) -> Sequence[str]:
        await self._step("towns")
        return sorted({agent.town for agent in self._agents})

    async def agents(self, town: str) -> Sequence[str]:
        await self._step("agents")
        return sorted(name.agent for name in self._agents if name.town == town)

    def _known(self, agent: AgentName) -> _Agent:
        return self._agents.setdefault(agent, _Agent())

    def _upload(self, agent: AgentName, upload_id: str) -> Known | None:
        for name, known in self._agents.items():
            if name.town == agent.town and upload_id in known.uploads:
                return Known(name.agent, known.uploads[upload_id])
        return None

    async def _step(self, method: str) -> None:
        await self.pause.here(method)
        self.before(method)
