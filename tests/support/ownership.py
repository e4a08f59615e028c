"""Who may own what, judged from outside: by answers, and by when calls began and ended.

A call takes effect at some instant between its begin and its end. A complaint is raised
only where no choice of such instants makes the answers right.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Final

# Redis counts in whole milliseconds, and its clock is not ours.
SLACK_S: Final = 0.003


@dataclass(frozen=True, slots=True)
class Owner:
    """One boot of one slot."""

    slot: str
    boot: str


@dataclass(slots=True)
class _Agent:
    owners: dict[int, Owner] = field(default_factory=dict)  # epoch → who got it
    floor: int = 0  # the highest epoch that a finished claim was given
    advanced: int = 0  # the highest that a finished advance has shown
    given_up: set[int] = field(default_factory=set)  # epochs whose owner let go
    parents: dict[int, str] = field(default_factory=dict)  # generation → upload on it
    newest: int = 0
    renewed: dict[int, float] = field(default_factory=dict)  # epoch → begin of the call


@dataclass(frozen=True, slots=True)
class Begun:
    """What was known of an agent when a call about it began."""

    floor: int
    advanced: int
    newest: int
    held_until: float  # before that nobody but the owner of `floor` may have it


class Judge:
    """Hears of every call, as it begins and as it ends."""

    def __init__(self, ttl_s: float) -> None:
        self.complaints: list[str] = []
        self._ttl_s = ttl_s
        self._agents: dict[str, _Agent] = defaultdict(_Agent)
        self._gone: set[Owner] = set()

    def begins(self, agent: str) -> Begun:
        state = self._agents[agent]
        held_until = state.renewed.get(state.floor, 0.0) + self._ttl_s
        return Begun(state.floor, state.advanced, state.newest, held_until)

    def renewed(self, agent: str, epoch: int, begun_s: float) -> None:
        """A call that renews a lease, shown to be the caller's, was answered."""
        renewed = self._agents[agent].renewed
        renewed[epoch] = max(begun_s, renewed.get(epoch, 0.0))

    def leaves(self, owner: Owner) -> None:
        """The owner's end has begun: released, or its slot is being taken."""
        self._gone.add(owner)

    def lets_go(self, agent: str, epoch: int) -> None:
        """Giving this lease back has begun."""
        self._agents[agent].given_up.add(epoch)

    def claimed(
        self, agent: str, epoch: int, owner: Owner, begun: Begun, ended_s: float
    ) -> None:
        """The answer of a claim names this lease as the owner's."""
        state = self._agents[agent]
        had = state.owners.setdefault(epoch, owner)
        if had != owner:
            self._complain(f"{agent} epoch {epoch} is {had}'s and {owner}'s")
        if epoch < begun.floor:
            self._complain(f"{agent} fell from epoch {begun.floor} to {epoch}")
        before = state.owners.get(begun.floor)
        taken = before is not None and before != owner and epoch > begun.floor
        free = before in self._gone or begun.floor in state.given_up
        if taken and not free and ended_s < begun.held_until - SLACK_S:
            self._complain(f"{agent} was taken from {before}, who had it still")
        state.floor = max(state.floor, epoch)

    def advanced(self, agent: str, epoch: int, begun: Begun) -> None:
        """The snapshot service takes this epoch for the present one."""
        if epoch < begun.advanced:
            self._complain(f"{agent} advanced back, {begun.advanced} to {epoch}")
        state = self._agents[agent]
        state.advanced = max(state.advanced, epoch)

    def committed(
        self, agent: str, epoch: int, owner: Owner, on: int, upload: str, begun: Begun
    ) -> None:
        """A generation was made on top of another, under this epoch."""
        state = self._agents[agent]
        if epoch < begun.advanced:
            self._complain(f"{agent}: stale commit, {epoch} after {begun.advanced}")
        if state.owners.get(epoch) != owner:
            self._complain(f"{agent}: {owner} committed under another's epoch {epoch}")
        if state.parents.setdefault(on, upload) != upload:
            self._complain(f"{agent}: two generations on {on}")
        if on < begun.newest:
            self._complain(f"{agent}: {on} is not the head, {begun.newest} is")
        state.newest = max(state.newest, on + 1)

    def acknowledged(self, agent: str, epoch: int, owner: Owner, begun: Begun) -> None:
        """A message was settled under this epoch."""
        if epoch < begun.floor:
            self._complain(f"{agent}: acknowledged under {epoch}, after {begun.floor}")
        if self._agents[agent].owners.get(epoch) != owner:
            self._complain(f"{agent}: {owner} acknowledged under another's {epoch}")

    def _complain(self, text: str) -> None:
        self.complaints.append(text)
