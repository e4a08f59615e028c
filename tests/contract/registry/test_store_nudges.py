"""What every store promises of nudges."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from services.chassis.errors import Reason, ServiceError
from services.chassis.names import AgentName, NudgeName
from services.registry.nudges import (
    DELIVERED_KEPT_S,
    DELIVERED_MAX,
    PENDING_MAX,
    TEXT_BYTES_MAX,
    Mode,
    NudgeContent,
    Priority,
)
from services.registry.store import RegistryStore
from tests.support.registry_samples import MAYOR, POLECAT, SPEC
from tests.support.registry_time import Time

NORMAL = NudgeContent("Look.")
URGENT = NudgeContent("Look!", priority=Priority.URGENT)
BRIEF = NudgeContent("Look?", Mode.QUEUE, ttl_s=60.0)


@pytest.fixture
async def agent(store: RegistryStore) -> RegistryStore:
    await store.register_agent(MAYOR, SPEC)
    return store


def nudge(nudge_id: str, agent: AgentName = MAYOR) -> NudgeName:
    return NudgeName(agent.town, agent.agent, nudge_id)


async def ids(store: RegistryStore, agent: AgentName = MAYOR) -> list[str]:
    return [one.name.nudge for one in await store.list_nudges(agent)]


async def reason(call: Any) -> Reason:
    with pytest.raises(ServiceError) as refused:
        await call
    return refused.value.reason


@pytest.mark.parametrize(
    "content",
    [
        NORMAL,
        BRIEF,
        NudgeContent("a\0\U0001f9d9/\n", Mode.IMMEDIATE, Priority.URGENT, "patrol"),
        NudgeContent("x" * TEXT_BYTES_MAX),
    ],
    ids=["normal", "brief", "urgent", "long"],
)
async def test_a_nudge_reads_back_as_it_was_accepted(agent, content):
    """With its times by the store's clock."""
    accepted, created = await agent.enqueue_nudge(nudge("n-1"), content)

    assert created
    assert (nudge("n-1"), content) == (accepted.name, accepted.content)
    lasts = timedelta(seconds=content.ttl_s) if content.ttl_s else None
    expires = accepted.expire_time
    assert lasts == (expires - accepted.create_time if expires else None)
    assert [accepted] == await agent.list_nudges(MAYOR)


async def test_urgent_ones_come_first_then_the_oldest(agent):
    """Whatever their ids."""
    for name, content in (("d", NORMAL), ("c", URGENT), ("b", NORMAL), ("a", URGENT)):
        await agent.enqueue_nudge(nudge(name), content)

    assert ["c", "a", "d", "b"] == await ids(agent)


async def test_a_delivered_nudge_is_pending_no_more(agent):
    """Saying so again changes nothing; the same nudge again is delivered already."""
    await agent.enqueue_nudge(nudge("a"), NORMAL)
    await agent.enqueue_nudge(nudge("b"), NORMAL)
    await agent.acknowledge_nudge(nudge("a"))
    await agent.acknowledge_nudge(nudge("a"))
    again, created = await agent.enqueue_nudge(nudge("a"), NORMAL)

    assert ["b"] == await ids(agent)
    assert (NORMAL, False) == (again.content, created)


async def test_the_same_id_is_one_nudge(agent):
    """With another content it is refused, before and after delivery."""
    first, _ = await agent.enqueue_nudge(nudge("a"), NORMAL)
    again, created = await agent.enqueue_nudge(nudge("a"), NORMAL)
    before = await reason(agent.enqueue_nudge(nudge("a"), URGENT))
    await agent.acknowledge_nudge(nudge("a"))
    after = await reason(agent.enqueue_nudge(nudge("a"), URGENT))

    assert (first, False) == (again, created)
    assert [Reason.MESSAGE_REUSED] * 2 == [before, after]


async def test_a_nudge_expires(agent, time: Time):
    """Then it is neither listed nor delivered, and its id is free."""
    await agent.enqueue_nudge(nudge("a"), BRIEF)
    await agent.enqueue_nudge(nudge("b"), NORMAL)
    await time.passes(59)
    assert ["a", "b"] == await ids(agent)
    await time.passes(2)

    assert ["b"] == await ids(agent)
    gone = await reason(agent.acknowledge_nudge(nudge("a")))
    assert Reason.MESSAGE_NOT_FOUND is gone
    _, created = await agent.enqueue_nudge(nudge("a"), NORMAL)
    assert created


async def test_a_delivered_nudge_is_remembered_for_a_day(agent, time: Time):
    """Also one that would have expired before."""
    await agent.enqueue_nudge(nudge("a"), BRIEF)
    await agent.acknowledge_nudge(nudge("a"))
    await time.passes(DELIVERED_KEPT_S - 60)
    await agent.acknowledge_nudge(nudge("a"))
    await time.passes(61)

    gone = await reason(agent.acknowledge_nudge(nudge("a")))
    assert Reason.MESSAGE_NOT_FOUND is gone


async def test_nudges_of_agents_are_apart(agent):
    """Nobody marks another agent's nudge as delivered."""
    await agent.register_agent(POLECAT, SPEC)
    await agent.enqueue_nudge(nudge("a"), NORMAL)
    await agent.enqueue_nudge(nudge("a", POLECAT), URGENT)
    await agent.enqueue_nudge(nudge("b", POLECAT), URGENT)

    gone = await reason(agent.acknowledge_nudge(nudge("b")))
    await agent.acknowledge_nudge(nudge("a"))

    assert Reason.MESSAGE_NOT_FOUND is gone
    assert ([], ["a", "b"]) == (await ids(agent), await ids(agent, POLECAT))


async def test_no_more_are_accepted_than_may_wait(agent):
    """Repeats and delivered ones do not count, nor do expired ones."""
    for index in range(PENDING_MAX):
        await agent.enqueue_nudge(nudge(f"n-{index}"), NORMAL)

    full = await reason(agent.enqueue_nudge(nudge("more"), NORMAL))
    _, again = await agent.enqueue_nudge(nudge("n-7"), NORMAL)
    await agent.acknowledge_nudge(nudge("n-0"))
    _, created = await agent.enqueue_nudge(nudge("more"), NORMAL)

    assert (Reason.INBOX_FULL, False, True) == (full, again, created)


async def test_no_more_delivered_ones_are_remembered_than_a_bound(agent):
    """The ones delivered first are forgotten first; none that waits is."""
    await agent.enqueue_nudge(nudge("waits"), NORMAL)
    for index in range(DELIVERED_MAX + 1):
        await agent.enqueue_nudge(nudge(f"n-{index}"), NORMAL)
        await agent.acknowledge_nudge(nudge(f"n-{index}"))

    await agent.acknowledge_nudge(nudge("n-1"))
    gone = await reason(agent.acknowledge_nudge(nudge("n-0")))

    assert Reason.MESSAGE_NOT_FOUND is gone
    assert ["waits"] == await ids(agent)


async def test_nudges_go_with_the_record(agent):
    """Who is registered anew under the name is nudged by nobody yet."""
    await agent.enqueue_nudge(nudge("a"), NORMAL)
    await agent.deregister_agent(MAYOR)
    await agent.register_agent(MAYOR, SPEC)

    assert [] == await ids(agent)


async def test_an_agent_that_is_not_there_is_not_nudged(store):
    """Nor has it any nudges."""
    calls = (
        store.enqueue_nudge(nudge("a"), NORMAL),
        store.list_nudges(MAYOR),
        store.acknowledge_nudge(nudge("a")),
    )

    assert [
        Reason.AGENT_NOT_FOUND,
        Reason.AGENT_NOT_FOUND,
        Reason.MESSAGE_NOT_FOUND,
    ] == [await reason(call) for call in calls]
