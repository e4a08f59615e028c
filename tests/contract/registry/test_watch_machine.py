"""Watches through any history: who has caught up sees what is there.

Random changes of a town on a real Valkey, watchers that come, read a little, go, and
resume from any step that any of them ever took. ROUNDS makes it a campaign, SEED
repeats one. Planted defects show that it would find them.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import FlakyFailure
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from services.chassis.errors import Reason, ServiceError
from services.chassis.names import AgentName, InstanceName
from services.chassis.redis_pool import connect
from services.registry import redis_changes
from services.registry.agent_feed import Watches
from services.registry.agents import Agent
from services.registry.changes import Position
from services.registry.inbox import Acknowledgement, MessageState
from services.registry.leases import Evidence, Lease, Release
from services.registry.redis_store import opened
from services.registry.redis_town import Terms
from tests.support import registry_watch
from tests.support.redis_server import ValkeyProcess
from tests.support.registry_samples import (
    ADDRESS,
    OTHER_SPEC,
    SPEC,
    entries,
    entry_json,
    message,
)
from tests.support.registry_time import RedisTime
from tests.support.registry_watch import Viewer
from tests.support.tokens import TOWN
from tests.support.watch_faults import FAULTS, lose_hints

AGENTS = ("a", "b", "c", "d")
agents = st.sampled_from(AGENTS)
slots = st.sampled_from(["s1", "s2"])
boots = st.sampled_from(["b1", "b2"])
numbers = st.integers(0, 1000)
# The waits below never add up to about a lease's time: no test hangs on a second.
TTL_S = 1000.0
VIEWERS_MAX = 4
# With a planted defect, what a watch may hang for until that counts as found.
FOUND_AFTER_S = 0.5


# Of each agent, the last of its states that a watch has told.
Seen = dict[str, int]


@dataclass(frozen=True)
class Bookmark:
    """A step that somebody took: where, and what the town looked like from there."""

    position: Position
    view: dict[str, Agent]
    seen: Seen


class Machine(RuleBasedStateMachine):
    """One town, some who change it, some who watch."""

    valkey: ClassVar[ValkeyProcess]

    def __init__(self) -> None:
        super().__init__()
        self.valkey.flush()
        self.runner = asyncio.Runner()
        self.stack = AsyncExitStack()
        self.viewers: list[tuple[Viewer, Seen]] = []
        self.bookmarks: list[Bookmark] = []
        self.boots = {"s1": "b1", "s2": "b1"}
        # All states that were ever shown of each agent; None: it is not there.
        self.states: dict[str, list[Agent | None]] = {agent: [None] for agent in AGENTS}
        self.runner.run(self._open(self.valkey.url))

    async def _open(self, url: str) -> None:
        redis = await connect(url)
        self.stack.push_async_callback(redis.aclose)
        terms = Terms(ttl_s=TTL_S, gone_kept=1)
        store = opened(redis, environment="tests", terms=terms)
        self.store = await self.stack.enter_async_context(store)
        self.time = RedisTime(redis, TOWN)
        self.watches = Watches(self.store, registry_watch.EAGER)

    def teardown(self) -> None:
        for viewer, _ in self.viewers:
            self.runner.run(viewer.close())
        self.runner.run(self.stack.aclose())
        self.runner.close()

    def does(self, change: Awaitable[Any]) -> None:
        """A change, which may be refused; then what is there is compared."""

        async def run() -> None:
            with suppress(ServiceError):
                await change
            await self.sample()

        self.runner.run(run())

    async def sample(self) -> None:
        page = await self.store.list_agents(TOWN)
        shown = {agent.name.agent: agent for agent in page.agents}
        for agent, states in self.states.items():
            if shown.get(agent) != states[-1]:
                states.append(shown.get(agent))

    def now(self) -> dict[str, Agent]:
        last = {agent: states[-1] for agent, states in self.states.items()}
        return {agent: state for agent, state in last.items() if state}

    # What changes the town.

    @initialize()
    def begin(self) -> None:
        for agent in AGENTS[:2]:
            self.register(agent, other=False, configure_only=False)
        self.boot("s1", "b1")
        self.beat("a", 3)
        self.beat("b", 3)
        self.come()
        self.read_all(0)

    @rule(agent=agents, other=st.booleans(), configure_only=st.booleans())
    def register(self, agent: str, other: bool, configure_only: bool) -> None:
        spec = OTHER_SPEC if other else SPEC
        name = AgentName(TOWN, agent)
        change = self.store.register_agent(name, spec, configure_only=configure_only)
        self.does(change)

    @rule(agent=agents)
    def deregister(self, agent: str) -> None:
        self.does(self.store.deregister_agent(AgentName(TOWN, agent)))

    @rule(listed=st.lists(agents, unique=True))
    def replace_list(self, listed: list[str]) -> None:
        self.does(self.store.replace_agents(TOWN, entries(*map(entry_json, listed))))

    @rule(slot=slots, boot=boots)
    def boot(self, slot: str, boot: str) -> None:
        name = InstanceName(TOWN, slot)
        self.boots[slot] = boot
        self.does(self.store.register_instance(name, boot, ADDRESS))

    @rule(slot=slots)
    def end_instance(self, slot: str) -> None:
        name = InstanceName(TOWN, slot)
        self.does(self.store.release_instance(name, self.boots[slot]))

    @rule(slot=slots, agent=st.sampled_from(["", *AGENTS]))
    def claim(self, slot: str, agent: str) -> None:
        name, named = InstanceName(TOWN, slot), [agent] if agent else []
        self.does(self.store.claim(name, self.boots[slot], named))

    @rule(agent=agents, n=st.integers(0, 3))
    def beat(self, agent: str, n: int) -> None:
        lease = self.held(agent)
        run = Evidence(agent, lease.epoch, n, n % 2)
        name = InstanceName(TOWN, lease.instance)
        self.does(self.store.heartbeat(name, lease.boot_id, [run]))

    @rule(agent=agents, why=st.sampled_from(["", "completed"]))
    def release(self, agent: str, why: str) -> None:
        lease = self.held(agent)
        name, given = (
            InstanceName(TOWN, lease.instance),
            Release(agent, lease.epoch, why),
        )
        self.does(self.store.release(name, lease.boot_id, [given]))

    @rule(agent=agents, which=st.sampled_from(["m1", "m2", "m3"]))
    def say(self, agent: str, which: str) -> None:
        self.does(self.store.enqueue(message(which, AgentName(TOWN, agent)), "Hello"))

    @rule(agent=agents, which=st.sampled_from(["m1", "m2", "m3"]))
    def settle(self, agent: str, which: str) -> None:
        self.say(agent, which)
        lease = self.held(agent)
        proof = Acknowledgement(
            lease.epoch, lease.instance, lease.boot_id, 1, MessageState.DELIVERED
        )
        name = message(which, AgentName(TOWN, agent))
        self.does(self.store.acknowledge(name, proof))

    def held(self, agent: str) -> Lease:
        """Has a live instance hold the agent, if it can."""
        for attempt in range(2):
            known = self.now().get(agent)
            if known and known.lease and known.lease.live:
                return known.lease
            if not attempt:
                self.boot("s1", self.boots["s1"])
                self.claim("s1", agent)
        return Lease(1, "s1", "b1")

    @rule(seconds=st.sampled_from([350, 800, 2000]))
    def wait(self, seconds: int) -> None:
        self.does(self.time.passes(seconds))

    # Who watches.

    @precondition(lambda self: len(self.viewers) < VIEWERS_MAX)
    @rule()
    def come(self) -> None:
        self.viewers.append((Viewer(self.watches), {}))

    @precondition(lambda self: self.bookmarks and len(self.viewers) < VIEWERS_MAX)
    @rule(which=numbers)
    def resume(self, which: int) -> None:
        mark = self.bookmarks[-1 - which % len(self.bookmarks)]
        viewer = Viewer(self.watches, mark.position, mark.view)
        self.viewers.append((viewer, dict(mark.seen)))

    @precondition(lambda self: self.viewers)
    @rule(which=numbers)
    def go(self, which: int) -> None:
        viewer, _ = self.viewers.pop(which % len(self.viewers))
        self.runner.run(viewer.close())

    @precondition(lambda self: self.viewers)
    @rule(which=numbers, count=st.integers(1, 3))
    def read_some(self, which: int, count: int) -> None:
        self.read(which % len(self.viewers), count)

    @precondition(lambda self: self.viewers)
    @rule(which=numbers)
    def read_all(self, which: int) -> None:
        self.read(which % len(self.viewers))

    @rule()
    def look(self) -> None:
        """All read to the end; then each sees what is there."""
        for index in reversed(range(len(self.viewers))):
            self.read(index)
        for viewer, _ in self.viewers:
            assert self.now() == viewer.view
        self.runner.run(self.compare_with_gets())

    async def compare_with_gets(self) -> None:
        for agent, shown in self.now().items():
            assert await self.store.get_agent(AgentName(TOWN, agent)) == shown

    def read(self, index: int, count: int | None = None) -> None:
        """Reads steps, all if no number is given; one that is too old ends there."""
        viewer, seen = self.viewers[index]
        try:
            self.runner.run(self.take(viewer, seen, count))
        except ServiceError as error:
            if error.reason is not Reason.RESUME_TOKEN_EXPIRED:
                raise
            self.go(index)

    async def take(self, viewer: Viewer, seen: Seen, count: int | None) -> None:
        while count is None or count > 0:
            if await viewer.is_caught_up(self.store):
                return
            step = await viewer.next()
            if step.name is not None:
                self.check(step.name.agent, step.changed, seen)
            mark = Bookmark(step.position, dict(viewer.view), dict(seen))
            self.bookmarks.append(mark)
            count = None if count is None else count - 1

    def check(self, agent: str, told: Agent | None, seen: Seen) -> None:
        """What is told was so once, and is newer than what was told before."""
        states = self.states[agent]
        assert told in states
        state = max(index for index, one in enumerate(states) if one == told)
        assert state > seen.get(agent, 0)
        seen[agent] = state


def run(machine: type[Machine], rounds: int, given: str | None = None) -> None:
    chosen = settings(
        max_examples=rounds,
        stateful_step_count=60,
        deadline=None,
        derandomize=not given,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
        report_multiple_bugs=False,
        database=None,
    )

    def histories() -> None:
        run_state_machine_as_test(machine, settings=chosen)

    seed(int(given))(histories)() if given else histories()


@pytest.fixture(autouse=True)
def _small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages so small that four agents take several."""
    monkeypatch.setattr(redis_changes, "PAGE_STEPS_MAX", 2)


@pytest.mark.redis
@pytest.mark.timeout(600)
def test_watchers_see_what_is_there(valkey):
    """Through any history, from any token; nothing twice, nothing unchanged."""
    machine = type("OnValkey", (Machine,), {"valkey": valkey})

    run(machine, int(os.environ.get("ROUNDS") or 12), os.environ.get("SEED"))


@pytest.mark.redis
@pytest.mark.campaign
@pytest.mark.timeout(120)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_defect_is_found(valkey, fault, monkeypatch):
    """Whatever was left out of the log, or of a watch."""
    monkeypatch.setattr(registry_watch, "STEP_LIMIT_S", FOUND_AFTER_S)
    FAULTS[fault](monkeypatch)
    machine = type("Planted", (Machine,), {"valkey": valkey})

    # What hangs once may come through when it is tried again.
    with pytest.raises((AssertionError, TimeoutError, FlakyFailure)):
        run(machine, 100)


@pytest.mark.redis
@pytest.mark.timeout(120)
def test_lost_hints_are_no_defect(valkey, monkeypatch):
    """As long as it looks from time to time."""
    lose_hints(monkeypatch)

    run(type("Deaf", (Machine,), {"valkey": valkey}), 3)
