"""Redis's scripts against the rules themselves, on random lives of two agents."""

from __future__ import annotations

import os
import random
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from services.chassis.errors import ServiceError
from services.chassis.names import AgentName
from services.chassis.redis_pool import Durability, Store, connect
from services.snapshots.generations import (
    AgentState,
    Claim,
    Deletion,
    Origin,
    Snapshot,
)
from services.snapshots.records import microseconds
from services.snapshots.redis_catalog import RedisCatalog
from services.snapshots.store import Catalog
from tests.fakes.snapshot_catalog import MemoryCatalog
from tests.support.redis_server import ValkeyProcess
from tests.support.snapshot_values import NAME, at, content, snapshot
from tests.support.tokens import TOWN

pytestmark = pytest.mark.redis

ROUNDS = int(os.environ.get("ROUNDS") or 15)
SEED = int(os.environ.get("SEED") or 1)
STEPS = 60
AGENTS = [NAME, AgentName(TOWN, "other")]
EPOCHS = [None, 0, 1, 2, 3]
INSTANCES = ["", "towns/town-1/instances/a", "towns/town-1/instances/b"]
BOOTS = ["boot-1", "boot-2"]


@pytest.fixture
async def store(valkey: ValkeyProcess) -> AsyncIterator[Store]:
    store = await connect(valkey.url)
    yield store
    await store.aclose()


class Life:
    """One random step after the other, the same on both catalogs."""

    def __init__(self, source: random.Random, catalogs: list[Catalog]) -> None:
        self.source = source
        self.catalogs = catalogs
        self.states = dict.fromkeys(AGENTS, AgentState())
        self.recent: dict[AgentName, list[Snapshot]] = {name: [] for name in AGENTS}

    async def step(self) -> None:
        agent = self.source.choice(AGENTS)
        kind, args = self.source.choices(
            [
                self._advance,
                self._commit,
                self._delete,
                self._drop,
                self._adopt,
                self._revise,
                self._trim,
                self._purge,
                self._forget,
                self._forgotten,
                self._fence,
            ],
            [2, 12, 3, 2, 2, 6, 1, 1, 1, 1, 1],
        )[0](agent)
        outcomes = [
            await outcome(getattr(each, kind)(agent, *args))
            if kind != "commit"
            else await outcome(each.commit(*args))
            for each in self.catalogs
        ]
        assert outcomes[0] == outcomes[1], (kind, args)
        views = [await self._view(each, agent) for each in self.catalogs]
        assert views[0] == views[1], (kind, args)
        self.states[agent] = views[0][0]
        self.recent[agent] = views[0][-1]

    def _claim(self, agent: AgentName) -> Claim:
        """The owner's, or one that is wrong in one thing, or in all."""
        state = self.states[agent]
        right = Claim(state.epoch or None, state.instance, state.boot_id)
        wrong = Claim(
            self.source.choice(EPOCHS),
            self.source.choice(INSTANCES),
            self.source.choice(BOOTS),
        )
        field = self.source.choice(["", "", "", "epoch", "instance", "boot_id", "all"])
        if field == "all":
            return wrong
        return replace(right, **{field: getattr(wrong, field)}) if field else right

    def _advance(self, agent: AgentName) -> tuple[str, tuple[Any, ...]]:
        claim = Claim(
            max(self.states[agent].epoch + self.source.randint(-1, 1), 1),
            self.source.choice(INSTANCES[1:]),
            self.source.choice(BOOTS),
        )
        return "advance", (claim,)

    def _commit(self, agent: AgentName) -> tuple[str, tuple[Any, ...]]:
        offset = self.source.choice([0, 1, 1, 1, 1, 2])
        made = self._snapshot(agent, max(self.states[agent].last + offset, 1))
        revision = self.states[agent].revision - self.source.choice([0, 0, 0, 0, 1])
        return "commit", (made, self._claim(agent), self._match(agent), revision)

    def _match(self, agent: AgentName) -> int | None:
        head = self.states[agent].head_generation
        return self.source.choice([None, head, head, 0, head + 1])

    def _snapshot(self, agent: AgentName, generation: int) -> Snapshot:
        upload_id = f"upload-{self.source.randrange(40)}"
        return snapshot(
            generation,
            agent=agent,
            origin=Origin(upload_id),
            content=content(self.source.randrange(3)),
            epoch=self.source.randrange(4),
        )

    def _delete(self, agent: AgentName) -> tuple[str, tuple[Any, ...]]:
        head, last = self.states[agent].head_generation, self.states[agent].last
        some = self.source.randint(1, last + 1)
        wanted = self.source.choice([None, max(head, 1), some, some, some])
        claim = Claim(self._claim(agent).epoch)
        return "delete", (wanted, claim, self._match(agent))

    def _drop(self, agent: AgentName) -> tuple[str, tuple[Any, ...]]:
        known = range(1, self.states[agent].last + 2)
        return "drop", (self.source.sample(known, self.source.randrange(len(known))),)

    def _adopt(self, agent: AgentName) -> tuple[str, tuple[Any, ...]]:
        highest = max(self.states[agent].last + self.source.randint(-1, 2), 1)
        stored = range(self.source.randint(1, highest), highest + 1)
        changes = self.states[agent].changes
        expected = self.source.choice([None, changes, changes, changes + 1])
        taken = f"adopted-{self.source.randrange(10**9)}"
        found = [
            snapshot(
                n,
                agent=agent,
                origin=Origin(f"{taken}-{n}"),
                epoch=n % 4,
                revision=n % 2,
                hold=n % 8 == 7,
                deletion=self._deletion() if n % 5 == 3 else None,
            )
            for n in stored
        ]
        return "adopt", (found, expected, found[::2])

    def _forget(self, agent: AgentName) -> tuple[str, tuple[Any, ...]]:
        last = self.states[agent].last
        some = self.source.sample(range(1, last + 2), min(2, last))
        return "forget", (self.source.choice([some, some, list(range(1, last + 1))]),)

    def _forgotten(self, agent: AgentName) -> tuple[str, tuple[Any, ...]]:
        return "forgotten", (list(range(1, self.states[agent].last + 2)),)

    def _fence(self, agent: AgentName) -> tuple[str, tuple[Any, ...]]:
        return "fence", ()

    def _revise(self, agent: AgentName) -> tuple[str, tuple[Any, ...]]:
        old = self.source.choice([*self.recent[agent], None, snapshot(1, agent=agent)])
        some = old or snapshot(self.source.randint(1, self.states[agent].last + 1))
        new = replace(
            some,
            agent=agent,
            revision=some.revision + 1,
            hold=self.source.choice([some.hold, some.hold, False, True]),
            deletion=self.source.choice([some.deletion, None, self._deletion()]),
        )
        claim = self.source.choice([None, self._claim(agent)])
        return "revise", (old, new, claim, self._match(agent))

    def _deletion(self) -> Deletion:
        return Deletion(at(100), at(100 + self.source.randrange(200)))

    def _purge(self, agent: AgentName) -> tuple[str, tuple[Any, ...]]:
        return "purge", (microseconds(at(100 + self.source.randrange(200))),)

    def _trim(self, agent: AgentName) -> tuple[str, tuple[Any, ...]]:
        head = self.states[agent].head
        kept = [each for each in self.recent[agent] if each != head]
        return "trim", (self.source.sample(kept, self.source.randint(0, len(kept))),)

    async def _view(self, catalog: Catalog, agent: AgentName) -> tuple[Any, ...]:
        """Everything that the port shows of an agent."""
        state, _ = await catalog.look(agent)
        known = [
            (await catalog.look(agent, f"upload-{number}"))[1] for number in range(40)
        ]
        entries = list(await catalog.entries(agent))
        entries += await catalog.entries(agent, deleted=True)
        recent = list(await catalog.recent(agent))
        return state, state.changes, known, entries, recent


async def outcome(call: Any) -> Any:
    """What the call gave, or why it did not."""
    try:
        given = await call
    except ServiceError as error:
        return error.reason, error.metadata
    return sorted(given) if isinstance(given, list) else given


@pytest.mark.timeout(120)
@pytest.mark.parametrize("round_number", range(ROUNDS))
async def test_both_decide_the_same(
    valkey: ValkeyProcess, store: Store, round_number: int
) -> None:
    """Whatever is tried, by whom, in which order: answers and states are equal."""
    redis = RedisCatalog(store, Durability(store))
    life = Life(random.Random(SEED + round_number), [MemoryCatalog(), redis])

    for _ in range(STEPS):
        await life.step()
