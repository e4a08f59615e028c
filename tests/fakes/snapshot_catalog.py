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

    def mark(self, snapshot: Snapshot) -> None:
        self.revisions[snapshot.generation] = snapshot.revision
        self.held.discard(snapshot.generation)
        if snapshot.hold:
            self.held.add(snapshot.generation)

    def forget(self, generation: int) -> None:
        for kept in (self.times, self.records, self.revisions):
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
        known.times[generation] = records.microseconds(snapshot.create_time)
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
        self, agent: AgentName, *, below: int | None = None, count: int | None = None
    ) -> Sequence[Entry]:
        await self._step("entries")
        times = self._agents.get(agent, _Agent()).times
        found = [
            Entry(generation, times[generation])
            for generation in sorted(times, reverse=True)
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
            gone = sorted(known.times)
            known.state = replace(known.state, head=None)
            for kept in (known.times, known.records, known.uploads, known.revisions):
                kept.clear()
            return gone
        if generation not in known.times:
            raise absent(agent, generation)
        if generation == head:
            raise head_stays(agent, head)
        if generation in known.held:
            raise held(agent, generation)
        known.forget(generation)
        return [generation]

    async def drop(self, agent: AgentName, generations: Sequence[int]) -> Sequence[int]:
        await self._step("drop")
        known = self._known(agent)
        kept = {known.state.head_generation, *known.held}
        gone = [generation for generation in generations if generation not in kept]
        for generation in gone:
            known.forget(generation)
        return gone

    async def adopt(self, agent: AgentName, snapshots: Sequence[Snapshot]) -> bool:
        await self._step("adopt")
        known = self._known(agent)
        head = snapshots[-1]
        if known.state.last > head.generation:
            return False
        epoch = max(known.state.epoch, *(each.epoch for each in snapshots))
        self._agents[agent] = _Agent(
            state=AgentState(
                epoch=epoch,
                last=head.generation,
                head=head,
                revision=known.state.revision,
            ),
            times={
                each.generation: records.microseconds(each.create_time)
                for each in snapshots
            },
            records={each.generation: each for each in snapshots[-RECORDS_KEPT:]},
            uploads={each.origin.upload_id: each.generation for each in snapshots},
        )
        for each in snapshots:
            if each.revision:
                self._agents[agent].mark(each)
        return True

    async def revise(
        self, agent: AgentName, old: Snapshot | None, new: Snapshot
    ) -> bool:
        await self._step("revise")
        known = self._agents.get(agent, _Agent())
        if new.generation not in known.times:
            raise absent(agent, new.generation)
        now = known.records.get(new.generation)
        if now not in (old, new):
            return False
        if now is None and known.revisions.get(new.generation, 0) >= new.revision:
            return False
        known.records[new.generation] = new
        known.mark(new)
        if new.generation == known.state.head_generation:
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
