"""What every store promises of the log of changes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from services.chassis.errors import Reason, ServiceError
from services.chassis.names import AgentName
from services.registry.changes import PAGE_STEPS_MAX, Position
from services.registry.inbox import Acknowledgement, MessageState
from services.registry.leases import Evidence, Release
from services.registry.store import RegistryStore
from tests.contract.registry.conftest import GONE_KEPT
from tests.support.registry_samples import (
    ADDRESS,
    BOOT,
    FIRST,
    MAYOR,
    OTHER_BOOT,
    OTHER_SPEC,
    POLECAT,
    SECOND,
    SPEC,
    entries,
    entry_json,
    message,
)
from tests.support.registry_time import Time
from tests.support.registry_watch import told
from tests.support.tokens import FOREIGN_TOWN, TOWN

Change = Callable[[RegistryStore, Time], Awaitable[Any]]


async def synced(store: RegistryStore) -> Position:
    """The end of the log."""
    after: Position | None = None
    while True:
        page = await store.read_changes(TOWN, after)
        after = page.end
        if page.complete:
            return replace(after, since=None)


async def since(store: RegistryStore, position: Position) -> list[str]:
    """What came after a position, which must be one page."""
    page = await store.read_changes(TOWN, position)
    assert page.complete
    for step in page.steps:
        if step.changed:
            assert await store.get_agent(step.changed.name) == step.changed
    return told(list(page.steps))


def proof(outcome: MessageState = MessageState.DELIVERED, n: int = 1) -> Any:
    return Acknowledgement(1, FIRST.instance, BOOT, n, outcome)


@pytest.fixture
async def held(store) -> Position:
    """Two agents, one of which a live instance holds, with a message; the end."""
    await store.register_agent(POLECAT, SPEC, configure_only=True)
    await store.register_agent(MAYOR, SPEC)
    await store.register_instance(FIRST, BOOT, ADDRESS)
    await store.claim(FIRST, BOOT)
    await store.enqueue(message("m-0"), "Hello")
    return await synced(store)


CHANGES: dict[str, Change] = {
    "another spec": lambda s, _: s.register_agent(MAYOR, OTHER_SPEC),
    "a generation": lambda s, _: beat(s, generation=5),
    "a failed start": lambda s, _: beat(s, failed_starts_count=1, last_error="no"),
    "a message": lambda s, _: s.enqueue(message("m-1"), "Hello"),
    "a message settled": lambda s, _: s.acknowledge(message("m-0"), proof()),
    "the lease given back": lambda s, _: s.release(
        FIRST, BOOT, [Release(MAYOR.agent, 1)]
    ),
    "ended": lambda s, _: s.release(
        FIRST, BOOT, [Release(MAYOR.agent, 1, "completed")]
    ),
    "its instance gone": lambda s, _: s.release_instance(FIRST, BOOT),
    "its slot taken over": lambda s, _: s.register_instance(FIRST, OTHER_BOOT, ADDRESS),
    "its instance expired": lambda _, time: time.passes(11),
    "listed": lambda s, _: s.replace_agents(TOWN, entries(entry_json(MAYOR.agent))),
}

NO_CHANGES: dict[str, Change] = {
    "the same again": lambda s, _: s.register_agent(MAYOR, SPEC),
    "a heartbeat": lambda s, _: beat(s),
    "the message again": lambda s, _: s.enqueue(message("m-0"), "Hello"),
    "claimed again": lambda s, _: s.claim(FIRST, BOOT),
    "a lease of others": lambda s, _: s.release(
        SECOND, OTHER_BOOT, [Release(MAYOR.agent, 1)]
    ),
    "some time": lambda _, time: time.passes(5),
    "another instance": lambda s, _: s.register_instance(SECOND, OTHER_BOOT, ADDRESS),
    "a drain": lambda s, _: s.announce_drain(TOWN),
}


def beat(store: RegistryStore, **evidence: Any) -> Awaitable[Any]:
    return store.heartbeat(FIRST, BOOT, [Evidence(MAYOR.agent, 1, **evidence)])


@pytest.mark.parametrize("change", CHANGES.values(), ids=list(CHANGES))
async def test_whatever_changes_what_is_shown_is_logged(store, time, held, change):
    """Once, for the agent that it concerns, with what is shown of it then."""
    before = await store.get_agent(MAYOR)

    await change(store, time)

    assert before != await store.get_agent(MAYOR)
    assert [MAYOR.agent] == await since(store, held)
    assert [] == await since(store, await synced(store))


@pytest.mark.parametrize("change", NO_CHANGES.values(), ids=list(NO_CHANGES))
async def test_what_changes_nothing_is_not_logged(store, time, held, change):
    """A watcher is not bothered with it."""
    await change(store, time)

    assert [] == await since(store, held)


async def test_an_instance_that_comes_back_is_a_change_of_its_agents(store, time, held):
    """Expired and heard from again: its lease is live as before."""
    await time.passes(11)
    expired = await synced(store)

    await store.heartbeat(FIRST, BOOT)

    assert [MAYOR.agent] == await since(store, expired)
    assert [MAYOR.agent] == await since(store, held)


async def test_changes_come_in_order_each_record_once(store, held):
    """At its last change, as it is then."""
    await store.register_agent(MAYOR, OTHER_SPEC)
    await store.register_agent(POLECAT, SPEC)
    await store.enqueue(message("m-1"), "Hello")

    page = await store.read_changes(TOWN, held)

    assert [POLECAT.agent, MAYOR.agent] == told(list(page.steps))
    revisions = [step.position.revision for step in page.steps]
    assert [held.revision + 2, held.revision + 3] == revisions
    assert page.end == page.steps[-1].position
    assert [MAYOR.agent] == await since(store, page.steps[0].position)


async def test_a_list_is_read_in_pages(store):
    """None is larger than the limit, all together are the town."""
    names = [AgentName(TOWN, f"a-{n}") for n in range(2 * PAGE_STEPS_MAX + 1)]
    for name in names:
        await store.register_agent(name, SPEC)

    pages = [await store.read_changes(TOWN)]
    while not pages[-1].complete:
        pages.append(await store.read_changes(TOWN, pages[-1].end))

    assert [PAGE_STEPS_MAX] * 2 + [1] == [len(page.steps) for page in pages]
    assert names == [step.name for page in pages for step in page.steps]


class TestDeregistration:
    async def test_is_logged(self, store, held):
        """Who watched hears of it; who lists later does not."""
        await store.deregister_agent(POLECAT)

        assert [f"-{POLECAT.agent}"] == await since(store, held)
        listed = (await store.read_changes(TOWN)).steps
        assert [MAYOR.agent] == told(list(listed))

    async def test_is_over_when_the_agent_is_there_again(self, store, held):
        """The last state counts."""
        await store.deregister_agent(POLECAT)
        await store.register_agent(POLECAT, OTHER_SPEC)

        assert [POLECAT.agent] == await since(store, held)

    async def test_by_list_again_is_over_too(self, store, held):
        """However it came back."""
        await store.deregister_agent(POLECAT)
        await store.replace_agents(TOWN, entries(entry_json(POLECAT.agent)))

        assert [POLECAT.agent] == await since(store, held)

    async def test_while_the_list_is_on_its_way_is_told(self, store):
        """Who went before the list began is not; who went since may have been sent."""
        for n in range(PAGE_STEPS_MAX + 1):
            await store.register_agent(AgentName(TOWN, f"a-{n}"), SPEC)
        await store.deregister_agent(AgentName(TOWN, "a-3"))
        first = await store.read_changes(TOWN)
        await store.register_agent(AgentName(TOWN, "new"), SPEC)
        await store.deregister_agent(AgentName(TOWN, "a-5"))

        assert "-a-3" not in told(list(first.steps))
        assert ["new", "-a-5"] == await since(store, first.end)

    async def test_is_forgotten_when_there_are_many(self, store):
        """Whoever may have missed one is told so, and none who has not."""
        for n in range(GONE_KEPT + 1):
            await store.register_agent(AgentName(TOWN, f"a-{n}"), SPEC)
        before = await synced(store)
        ends = []
        for n in range(GONE_KEPT + 1):
            await store.deregister_agent(AgentName(TOWN, f"a-{n}"))
            ends.append(await synced(store))

        with pytest.raises(ServiceError) as refused:
            await store.read_changes(TOWN, before)
        assert Reason.RESUME_TOKEN_EXPIRED is refused.value.reason
        assert ["-a-1", "-a-2", "-a-3"] == await since(store, ends[0])


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(lambda at: replace(at, log="1"), id="of another log"),
        pytest.param(lambda at: replace(at, revision=at.revision + 1), id="ahead"),
        pytest.param(lambda at: replace(at, since=at.revision + 1), id="list ahead"),
    ],
)
async def test_a_position_that_never_was_is_refused(store, held, other):
    """Redis was emptied, or is older than what it once told."""
    with pytest.raises(ServiceError) as refused:
        await store.read_changes(TOWN, other(held))

    assert Reason.RESUME_TOKEN_EXPIRED is refused.value.reason


async def test_towns_have_logs_of_their_own(store, held):
    """One is not told of the other."""
    await store.register_agent(AgentName(FOREIGN_TOWN, "spy"), SPEC)

    assert [] == await since(store, held)


@pytest.mark.parametrize("change", ["spec", "message", "deregistered", "listed"])
async def test_a_change_nudges_those_who_wait(store, held, change):
    """Whoever waits is woken, whatever it was that changed."""
    with store.nudges(TOWN) as nudge:
        match change:
            case "spec":
                await store.register_agent(MAYOR, OTHER_SPEC)
            case "message":
                await store.enqueue(message("m-1"), "Hello")
            case "deregistered":
                await store.deregister_agent(POLECAT)
            case "listed":
                await store.replace_agents(TOWN, entries(entry_json("a")))

        await asyncio.wait_for(nudge.wait(), 5)
