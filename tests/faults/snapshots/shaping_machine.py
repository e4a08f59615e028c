"""The machine of `machine`, with operators: holds, soft deletions, rebuildings."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule

from services.chassis.errors import Reason, ServiceError
from services.chassis.names import AgentName
from services.snapshots.amendment import Amendment
from services.snapshots.assembly import Parts
from services.snapshots.generations import Claim
from services.snapshots.rebuild import ON_ITS_WAY
from services.snapshots.reindex import stored_generations
from tests.faults.snapshots.machine import (
    AGENTS,
    SnapshotMachine,
    Struck,
    agents,
    faults,
)
from tests.faults.snapshots.machine_model import Kept

# What is older is purged; sweeps let up to 700 s pass.
PURGE_S: Final = 900.0
picks = st.integers(0, 4)
holds = st.sampled_from([True, True, False])
rights = st.sampled_from([True, True, True, False])


class ShapingMachine(SnapshotMachine):
    """One history. What is deleted and not purged is in `hidden`, with its time."""

    def __init__(self) -> None:
        super().__init__()
        self.held: dict[AgentName, set[int]] = {agent: set() for agent in AGENTS}
        self.hidden: dict[AgentName, dict[int, tuple[Kept, float]]] = {
            agent: {} for agent in AGENTS
        }

    def assembled(self) -> Parts:
        parts = super().assembled()
        return replace(parts, editor=replace(parts.editor, purge_after_s=PURGE_S))

    def existing(self, agent: AgentName) -> set[int]:
        page = self.run(self.parts.shelf.page(agent, None, 500, deleted=True))
        return {one.generation for one in page.snapshots}

    def picked(self, agent: AgentName, pick: int) -> int | None:
        """One that is there; seldom the head, as it is hardly ever deleted."""
        model = self.model[agent]
        older = sorted(set(model.kept) - {model.head})
        if older and pick:
            return older[pick % len(older)]
        return model.head or None

    @rule(agent=agents, count=st.integers(2, 4))
    def work(self, agent: AgentName, count: int) -> None:
        """Several saves in peace: there is something to shape."""
        for _ in range(count):
            self.send(self.model[agent].make(next(self.numbers), "base"), None)

    @rule(agent=agents, pick=picks, hold=holds, fault=faults)
    def hold(self, agent: AgentName, pick: int, hold: bool, fault: Struck) -> None:
        """One that exists is held or released."""
        wanted = self.picked(agent, pick)
        if wanted is None:
            return
        change = Amendment(hold=hold)
        found = self.attempt(
            lambda: self.parts.editor.amend(agent, wanted, change, ""), fault
        )
        if isinstance(found, ServiceError):
            assert self.blamed, found
            found = self.run(self.parts.shelf.snapshot(agent, wanted))
        else:
            assert hold == found.hold
        self.held[agent].discard(wanted)
        if found.hold:
            self.held[agent].add(wanted)

    @rule(agent=agents, pick=picks, right=rights, fault=faults)
    def hide(self, agent: AgentName, pick: int, right: bool, fault: Struck) -> None:
        """One is deleted so that it can be brought back."""
        model = self.model[agent]
        wanted = self.picked(agent, pick)
        if wanted is None:
            return
        claim = Claim((model.epoch + (not right)) or None)
        found = self.attempt(
            lambda: self.parts.editor.delete(agent, wanted, claim, None), fault
        )
        allowed = right and wanted != model.head and wanted not in self.held[agent]
        if isinstance(found, ServiceError):
            assert self.blamed or not allowed, found
            if wanted in self.listed(agent):
                return
        assert allowed, f"{wanted} of {agent} is deleted"
        self.hidden[agent][wanted] = model.kept.pop(wanted), self.clock.monotonic()

    @rule(agent=agents, pick=picks, fault=faults)
    def unhide(self, agent: AgentName, pick: int, fault: Struck) -> None:
        """It comes back."""
        hidden = self.hidden[agent]
        if not hidden:
            return
        wanted = sorted(hidden)[pick % len(hidden)]
        found = self.attempt(lambda: self.parts.editor.undelete(agent, wanted), fault)
        if isinstance(found, ServiceError):
            assert self.blamed, found
            if wanted not in self.listed(agent):
                return
        self.model[agent].kept[wanted] = hidden.pop(wanted)[0]

    @rule(
        agent=agents,
        which=st.sampled_from([*[1, 2, 3] * 4, 0]),
        right=rights,
        fault=faults,
    )
    def delete(self, agent: AgentName, which: int, right: bool, fault: Struck) -> None:
        """One generation, hidden or not, or all: for good."""
        model, hidden = self.model[agent], self.hidden[agent]
        numbers = sorted({*model.kept, *hidden})
        wanted = numbers[which % len(numbers)] if which and numbers else None
        gone = set(numbers) if wanted is None else {wanted}
        claim = Claim((model.epoch + (not right)) or None)
        found = self.attempt(
            lambda: self.parts.shelf.delete(agent, wanted, claim, None), fault
        )
        head = wanted is not None and wanted == model.head
        allowed = right and not head and not gone & self.held[agent]
        if isinstance(found, ServiceError):
            assert self.blamed or not allowed, found
            left = self.existing(agent)
            if left == set(numbers):
                return
            assert left == set(numbers) - gone
        assert allowed, f"{gone} of {agent} are deleted"
        for number in gone:
            model.kept.pop(number, None)
            hidden.pop(number, None)
        if wanted is None:
            model.head = 0

    @rule(agent=agents, fault=faults)
    def rebuild(self, agent: AgentName, fault: Struck) -> None:
        """The catalog is made anew: its owner is fenced, and that is all."""
        model = self.model[agent]
        recorded = self.run(stored_generations(self.blobs, agent))
        found = self.attempt(lambda: self.parts.rebuilder.agent(agent), fault)
        if not recorded:
            self.unacknowledged(agent)
        state = self.run(self.parts.shelf.state(agent))
        owner = Claim(state.epoch, state.instance, state.boot_id)
        if isinstance(found, ServiceError):
            assert self.blamed or found.reason is Reason.SNAPSHOT_CORRUPT, found
        elif model.epoch:
            assert owner.epoch != model.owner.epoch, "nobody was fenced"
        if owner != model.owner:
            assert (True, "", "") == (
                (owner.epoch or 0) > model.epoch,
                owner.instance,
                owner.boot_id,
            )
        model.owner = owner

    def unacknowledged(self, agent: AgentName) -> None:
        """What is old and never had a record may be gone; so the agent had none."""
        model, hidden = self.model[agent], self.hidden[agent]
        for number in {*model.kept, *hidden} - self.existing(agent):
            kept = model.kept.pop(number, None) or hidden.pop(number)[0]
            age_s = self.clock.monotonic() - kept.made_at_s
            assert age_s >= ON_ITS_WAY.total_seconds(), f"{number} of {agent} is gone"
        model.head = max(model.kept, default=0)

    def thinned(self) -> None:
        """And never what is held, or deleted a short time ago."""
        for agent, hidden in self.hidden.items():
            gone = set(self.model[agent].kept) - self.listed(agent)
            assert not gone & self.held[agent], f"{gone} of {agent} were held"
            for number in set(hidden) - self.existing(agent):
                age_s = self.clock.monotonic() - hidden.pop(number)[1]
                assert age_s >= PURGE_S, f"{number} of {agent} is purged at {age_s} s"
        super().thinned()

    @invariant()
    def what_is_deleted_is_there_still(self) -> None:
        """Until it is purged."""
        for agent, model in self.model.items():
            expected = {*model.kept, *self.hidden[agent]}
            assert expected == self.existing(agent)
