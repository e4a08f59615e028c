"""Any sequence of calls: Valkey and the rules give the same answers.

The model is the store in memory, which is made of the pure rules; beside it stand the
promises that no sequence may break. ROUNDS makes it a campaign, SEED repeats one.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from services.chassis.errors import ServiceError
from services.chassis.names import AgentName, InstanceName
from services.chassis.redis_pool import connect
from services.registry.agents import Agent, State
from services.registry.inbox import Acknowledgement, Message, MessageState
from services.registry.leases import (
    Drain,
    Evidence,
    Instance,
    Pulse,
    Release,
    Resolution,
)
from services.registry.redis_store import opened
from services.registry.store import RegistryStore
from tests.fakes.registry_store import MemoryStore
from tests.support.clock import ManualClock
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
from tests.support.tokens import TOWN

AGENTS = ("a", "b", "c")
agents = st.sampled_from(AGENTS)
slots = st.sampled_from(["s1", "s2"])
boots = st.sampled_from(["b1", "b2"])
epochs = st.integers(1, 4)


def shown(value: Any) -> Any:
    """An answer without what differs by nature: times, etags, nonces."""
    match value:
        case ServiceError():
            return value.reason
        case Agent():
            lease = value.lease
            held = lease and (lease.epoch, lease.instance, lease.boot_id, lease.live)
            return (
                value.name.agent,
                value.spec,
                value.state,
                value.end_reason,
                value.generation,
                value.failed_starts_count,
                value.last_error,
                value.entry_json,
                value.pending_messages_count,
                held,
            )
        case Instance():
            return (value.slot, value.boot_id, value.state, value.lease_count)
        case Drain():
            return dict(value.bound)
        case Pulse():
            nonce = bool(value.drain_nonce)
            counts = (value.claimable, value.living)
            return (value.lost, value.pending, nonce, *counts)
        case Resolution():
            return (shown(value.instance), value.holds_lease)
        case Message():
            return (str(value.name), value.state, value.sequence, value.generation)
        case list() | tuple():
            return [shown(each) for each in value]
    return value


class Model(RuleBasedStateMachine):
    """The same calls to both stores; answers must be equal."""

    valkey: ClassVar[ValkeyProcess]

    def __init__(self) -> None:
        super().__init__()
        self.valkey.flush()
        self.runner = asyncio.Runner()
        self.stack = AsyncExitStack()
        self.clock = ManualClock()
        self.memory = MemoryStore(self.clock)
        self.epochs: dict[str, int] = {}
        self.runner.run(self._open(self.valkey.url))

    async def _open(self, url: str) -> None:
        redis = await connect(url)
        self.stack.push_async_callback(redis.aclose)
        store = opened(redis, environment="tests")
        self.redis = await self.stack.enter_async_context(store)
        self.time = RedisTime(redis, TOWN)

    def teardown(self) -> None:
        self.runner.run(self.stack.aclose())
        self.runner.close()

    def both(self, call: Callable[[RegistryStore], Awaitable[Any]]) -> Any:
        """What both stores answered; an answer, or the reason of a refusal."""

        async def answers() -> list[Any]:
            found = []
            for store in (self.memory, self.redis):
                try:
                    found.append(shown(await call(store)))
                except ServiceError as error:
                    found.append(shown(error))
            return found

        expected, found = self.runner.run(answers())
        assert expected == found
        return found

    @initialize()
    def begin(self) -> None:
        for agent in AGENTS[:2]:
            self.register(agent, other=False, configure_only=False)

    @rule(agent=agents, other=st.booleans(), configure_only=st.booleans())
    def register(self, agent: str, other: bool, configure_only: bool) -> None:
        spec = OTHER_SPEC if other else SPEC
        name = AgentName(TOWN, agent)
        self.both(lambda s: s.register_agent(name, spec, configure_only=configure_only))

    @rule(agent=agents)
    def deregister(self, agent: str) -> None:
        self.both(lambda s: s.deregister_agent(AgentName(TOWN, agent)))

    @rule(listed=st.lists(agents, unique=True))
    def replace_list(self, listed: list[str]) -> None:
        written = entries(*map(entry_json, listed))
        self.both(lambda s: s.replace_agents(TOWN, written))

    @rule(slot=slots, boot=boots, capacity=st.integers(0, 2))
    def boot(self, slot: str, boot: str, capacity: int) -> None:
        name = InstanceName(TOWN, slot)
        self.both(lambda s: s.register_instance(name, boot, ADDRESS, capacity))

    @rule(
        slot=slots,
        boot=boots,
        agent=agents,
        epoch=epochs,
        n=st.integers(0, 3),
        leaving=st.booleans(),
    )
    def beat(
        self, slot: str, boot: str, agent: str, epoch: int, n: int, leaving: bool
    ) -> None:
        run = Evidence(agent, epoch, n, n, "cannot start: no" * (n > 0))
        name = InstanceName(TOWN, slot)
        self.both(lambda s: s.heartbeat(name, boot, [run], leaving=leaving))

    @rule(
        slot=slots,
        boot=boots,
        named=st.lists(agents, unique=True),
        n=epochs,
        renew=st.booleans(),
    )
    def claim(
        self, slot: str, boot: str, named: list[str], n: int, renew: bool
    ) -> None:
        name, renew = InstanceName(TOWN, slot), renew and bool(named)
        self.both(lambda s: s.claim(name, boot, named, n, renew=renew))

    @rule(
        slot=slots,
        boot=boots,
        agent=agents,
        epoch=epochs,
        why=st.sampled_from(["", "wait", "completed"]),
    )
    def release(self, slot: str, boot: str, agent: str, epoch: int, why: str) -> None:
        wait = why == "wait"
        each = Release(agent, epoch, "" if wait else why, wait_for_boot=wait)
        self.both(lambda s: s.release(InstanceName(TOWN, slot), boot, [each]))

    @rule(slot=slots, boot=boots)
    def end_instance(self, slot: str, boot: str) -> None:
        self.both(lambda s: s.release_instance(InstanceName(TOWN, slot), boot))

    @rule(named=st.lists(slots, unique=True))
    def drain(self, named: list[str]) -> None:
        self.both(lambda s: s.announce_drain(TOWN, named))

    @rule()
    def confirm(self) -> None:
        async def ready(store: RegistryStore) -> bool:
            drain = await store.get_drain(TOWN)
            return await store.confirm_ready(TOWN, drain.nonce if drain else "none")

        self.both(ready)

    @rule(agent=agents, which=st.sampled_from(["m1", "m2"]), text=st.sampled_from("xy"))
    def say(self, agent: str, which: str, text: str) -> None:
        name = message(which, AgentName(TOWN, agent))
        self.both(lambda s: s.enqueue(name, text))

    @rule(
        agent=agents,
        which=st.sampled_from(["m1", "m2"]),
        epoch=epochs,
        slot=slots,
        boot=boots,
        how=st.sampled_from([MessageState.DELIVERED, MessageState.INTERRUPTED]),
    )
    def settle(
        self, agent: str, which: str, epoch: int, slot: str, boot: str, how: Any
    ) -> None:
        name = message(which, AgentName(TOWN, agent))
        proof = Acknowledgement(epoch, slot, boot, 5, how)
        self.both(lambda s: s.acknowledge(name, proof))

    @rule(seconds=st.sampled_from([4, 7, 4000, 90_000]))
    def wait(self, seconds: int) -> None:
        self.clock.advance(seconds)
        self.runner.run(self.time.passes(seconds))

    @invariant()
    def reads_are_equal(self) -> None:
        self.both(lambda s: s.list_instances(TOWN))
        self.both(lambda s: s.get_drain(TOWN))
        self.both(_agents)
        self.both(lambda s: s.waiting_agents(TOWN))
        for agent in AGENTS:
            self.agent_reads_equal(AgentName(TOWN, agent))

    def agent_reads_equal(self, name: AgentName) -> None:
        self.both(lambda s: s.resolve(name))
        self.both(lambda s: _messages(s, name))

    @invariant()
    def epochs_never_go_back_and_name_one_holder(self) -> None:
        page = self.runner.run(self.redis.list_agents(TOWN))
        for agent in page.agents:
            if agent.lease is None:
                continue
            name = f"{agent.name.agent}"
            holder = f"{name} {agent.lease.epoch}"
            assert self.epochs.get(name, 0) <= agent.lease.epoch
            self.epochs[name] = agent.lease.epoch
            if agent.lease.instance:
                # Whoever holds an agent is to run it.
                assert agent.state is State.ACTIVE
                who = hash((agent.lease.instance, agent.lease.boot_id))
                assert who == self.epochs.setdefault(holder, who)


async def _agents(store: RegistryStore) -> Any:
    return (await store.list_agents(TOWN)).agents


async def _messages(store: RegistryStore, name: AgentName) -> Any:
    return (await store.list_messages(name)).messages


@pytest.mark.redis
@pytest.mark.timeout(600)
def test_valkey_follows_the_rules_through_any_sequence(valkey):
    """No order of calls, deaths and pauses makes the two disagree."""
    rounds = int(os.environ.get("ROUNDS") or 12)
    given = os.environ.get("SEED")
    machine = settings(
        max_examples=rounds,
        stateful_step_count=40,
        deadline=None,
        derandomize=not given,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.reuse, Phase.generate],
    )

    on_valkey = type("OnValkey", (Model,), {"valkey": valkey})

    def run() -> None:
        run_state_machine_as_test(on_valkey, settings=machine)

    seed(int(given))(run)() if given else run()
