"""What every store promises of messages."""

from __future__ import annotations

import asyncio

import pytest

from services.chassis.errors import Reason, ServiceError
from services.registry.hints import MISSED
from services.registry.inbox import (
    PENDING_MAX,
    SETTLED_KEPT_S,
    Acknowledgement,
    MessageState,
)
from services.registry.leases import Release
from services.registry.store import ANSWER_BYTES_MAX, RegistryStore
from tests.support.registry_samples import (
    ADDRESS,
    BOOT,
    EXEC_SPEC,
    FIRST,
    MAYOR,
    OTHER_BOOT,
    POLECAT,
    SECOND,
    SPEC,
    message,
)
from tests.support.registry_time import Time
from tests.support.tokens import TOWN

DELIVERED, INTERRUPTED = MessageState.DELIVERED, MessageState.INTERRUPTED


@pytest.fixture
async def inbox(store: RegistryStore) -> RegistryStore:
    """An agent, held by an instance with epoch 1."""
    await store.register_agent(MAYOR, SPEC)
    await store.register_instance(FIRST, BOOT, ADDRESS)
    await store.claim(FIRST, BOOT, [MAYOR.agent])
    return store


def proof(
    epoch=1, instance=FIRST.instance, boot=BOOT, generation=5, outcome=DELIVERED
) -> Acknowledgement:
    return Acknowledgement(epoch, instance, boot, generation, outcome)


async def ids(store, **options) -> list[str]:
    page = await store.list_messages(MAYOR, **options)
    return [each.name.message for each in page.messages]


async def refusal(awaitable) -> ServiceError:
    with pytest.raises(ServiceError) as refused:
        await awaitable
    return refused.value


class TestEnqueue:
    async def test_accepts_in_order(self, inbox):
        """Messages stand in the order of acceptance, pending, as they were sent."""
        first, created = await inbox.enqueue(message("z"), "Hello\0\U0001f9d9", "a/b")
        await inbox.enqueue(message("a"), "World")

        assert created
        assert ("Hello\0\U0001f9d9", "a/b", MessageState.PENDING, 1, 0, None) == (
            first.text,
            first.model,
            first.state,
            first.sequence,
            first.generation,
            first.acknowledge_time,
        )
        page = await inbox.list_messages(MAYOR)
        assert [("z", 1), ("a", 2)] == [
            (each.name.message, each.sequence) for each in page.messages
        ]
        assert first == page.messages[0]
        assert 2 == (await inbox.get_agent(MAYOR)).pending_messages_count

    async def test_takes_the_same_again_for_one_message(self, inbox):
        """Before and after it was delivered."""
        first, _ = await inbox.enqueue(message("m-1"), "Hello")
        again, created = await inbox.enqueue(message("m-1"), "Hello")
        await inbox.acknowledge(message("m-1"), proof())
        settled, recreated = await inbox.enqueue(message("m-1"), "Hello")

        assert (first, False) == (again, created)
        assert (DELIVERED, False) == (settled.state, recreated)
        assert [] == await inbox.waiting_agents(TOWN)

    @pytest.mark.parametrize(
        ("text", "model"), [("Other", ""), ("Hello", "a/b")], ids=["text", "model"]
    )
    async def test_refuses_another_content_under_the_id(self, inbox, text, model):
        """What was accepted stays."""
        await inbox.enqueue(message("m-1"), "Hello")

        error = await refusal(inbox.enqueue(message("m-1"), text, model))

        assert Reason.MESSAGE_REUSED is error.reason
        page = await inbox.list_messages(MAYOR)
        assert ["Hello"] == [each.text for each in page.messages]

    async def test_keeps_inboxes_apart(self, inbox):
        """Each agent has its own ids and its own order."""
        await inbox.register_agent(POLECAT, SPEC)
        await inbox.enqueue(message("m-1"), "Hello")
        other, created = await inbox.enqueue(message("m-1", POLECAT), "World")

        assert (1, True) == (other.sequence, created)
        assert ["m-1"] == await ids(inbox)
        assert {MAYOR.agent, POLECAT.agent} == set(await inbox.waiting_agents(TOWN))

    async def test_refuses_an_agent_that_is_not_there(self, store):
        """There is no inbox to put it in, or to list."""
        enqueue = await refusal(store.enqueue(message("m-1"), "Hello"))
        listing = await refusal(store.list_messages(MAYOR))

        assert [Reason.AGENT_NOT_FOUND] * 2 == [enqueue.reason, listing.reason]

    async def test_accepts_for_an_agent_that_nobody_runs(self, store):
        """It waits until somebody starts the agent."""
        await store.register_agent(MAYOR, SPEC, configure_only=True)

        await store.enqueue(message("m-1"), "Wake up.")

        assert [MAYOR.agent] == await store.waiting_agents(TOWN)

    async def test_refuses_more_than_an_inbox_holds(self, inbox):
        """Pending ones count; repeats and settled ones do not."""
        for index in range(PENDING_MAX):
            await inbox.enqueue(message(f"m-{index}"), "x")

        error = await refusal(inbox.enqueue(message("one-more"), "x"))
        _, created = await inbox.enqueue(message("m-7"), "x")
        await inbox.acknowledge(message("m-0"), proof())
        _, accepted = await inbox.enqueue(message("one-more"), "x")

        assert Reason.INBOX_FULL is error.reason
        assert (False, True) == (created, accepted)


class TestList:
    async def test_pages_in_order(self, inbox):
        """Pages together are the inbox."""
        for name in ("c", "b", "a"):
            await inbox.enqueue(message(name), "x")

        first = await inbox.list_messages(MAYOR, limit=2)
        second = await inbox.list_messages(MAYOR, limit=2, after=first.after)

        assert ["c", "b"] == [each.name.message for each in first.messages]
        assert ["a"] == [each.name.message for each in second.messages]
        assert "" == second.after

    async def test_filters_by_state(self, inbox):
        """Pending, delivered and interrupted ones are told apart."""
        for name in ("a", "b", "c"):
            await inbox.enqueue(message(name), "x")
        await inbox.acknowledge(message("a"), proof())
        await inbox.acknowledge(message("c"), proof(outcome=INTERRUPTED))

        assert ["a", "b", "c"] == await ids(inbox)
        assert ["b"] == await ids(inbox, state=MessageState.PENDING)
        assert ["a"] == await ids(inbox, state=DELIVERED)
        assert ["c"] == await ids(inbox, state=INTERRUPTED)
        page = await inbox.list_messages(MAYOR, state=DELIVERED, limit=1)
        assert "" == page.after

    async def test_forgets_settled_messages_after_a_day(self, inbox, time: Time):
        """Then their ids are free again."""
        await inbox.enqueue(message("a"), "x")
        await inbox.enqueue(message("b"), "x")
        await inbox.acknowledge(message("a"), proof())
        await time.passes(SETTLED_KEPT_S - 60)
        assert ["a", "b"] == await ids(inbox)
        await time.passes(61)

        assert ["b"] == await ids(inbox)
        fenced = await refusal(inbox.acknowledge(message("a"), proof()))
        assert Reason.MESSAGE_NOT_FOUND is fenced.reason
        again, created = await inbox.enqueue(message("a"), "y")
        assert (3, True) == (again.sequence, created)
        assert ["b", "a"] == await ids(inbox)


class TestAcknowledge:
    @pytest.mark.parametrize("outcome", [DELIVERED, INTERRUPTED])
    async def test_settles_a_message_once(self, inbox, outcome):
        """With its generation, and the same again answers the same."""
        await inbox.enqueue(message("m-1"), "Hello")

        settled = await inbox.acknowledge(message("m-1"), proof(outcome=outcome))
        again = await inbox.acknowledge(message("m-1"), proof(outcome=outcome))

        assert settled == again
        assert ("Hello", outcome, 5) == (
            settled.text,
            settled.state,
            settled.generation,
        )
        assert settled.acknowledge_time is not None
        assert [] == await inbox.waiting_agents(TOWN)
        agent = await inbox.get_agent(MAYOR)
        assert (0, 5) == (agent.pending_messages_count, agent.generation)

    @pytest.mark.parametrize(
        "stale",
        [
            pytest.param(proof(epoch=2), id="epoch"),
            pytest.param(proof(instance=SECOND.instance), id="instance"),
            pytest.param(proof(boot=OTHER_BOOT), id="boot"),
        ],
    )
    async def test_refuses_whoever_is_not_the_holder(self, inbox, stale):
        """The message stays, and the refusal names the holder."""
        await inbox.enqueue(message("m-1"), "Hello")

        error = await refusal(inbox.acknowledge(message("m-1"), stale))

        assert Reason.LEASE_FENCED is error.reason
        assert (str(FIRST), "1") == (error.metadata["holder"], error.metadata["epoch"])
        assert [MAYOR.agent] == await inbox.waiting_agents(TOWN)

    async def test_refuses_a_holder_of_before(self, inbox):
        """A lease given back proves nothing."""
        await inbox.enqueue(message("m-1"), "Hello")
        await inbox.release(FIRST, BOOT, [Release(MAYOR.agent, 1)])

        error = await refusal(inbox.acknowledge(message("m-1"), proof()))

        assert (Reason.LEASE_FENCED, "") == (error.reason, error.metadata["holder"])

    async def test_refuses_another_outcome(self, inbox):
        """A message is settled in one way."""
        await inbox.enqueue(message("m-1"), "Hello")
        await inbox.acknowledge(message("m-1"), proof())

        other = proof(outcome=INTERRUPTED)
        error = await refusal(inbox.acknowledge(message("m-1"), other))

        assert Reason.FIELD_INVALID is error.reason
        assert "delivered" == error.metadata["outcome"]

    async def test_wants_a_generation_where_there_is_a_database(self, inbox):
        """Without one only a runtime that has none can settle a message."""
        await inbox.enqueue(message("m-1"), "Hello")

        error = await refusal(inbox.acknowledge(message("m-1"), proof(generation=0)))

        assert Reason.FIELD_REQUIRED is error.reason
        assert [MAYOR.agent] == await inbox.waiting_agents(TOWN)

    async def test_takes_none_where_there_is_no_database(self, inbox):
        """A program without a database has no generations."""
        await inbox.register_agent(POLECAT, EXEC_SPEC)
        await inbox.claim(FIRST, BOOT, [POLECAT.agent])
        await inbox.enqueue(message("m-1", POLECAT), "Hello")

        name = message("m-1", POLECAT)
        settled = await inbox.acknowledge(name, proof(generation=0))

        assert DELIVERED is settled.state

    async def test_refuses_a_message_that_is_not_there(self, inbox):
        """Neither a strange id nor an agent that was forgotten has one."""
        error = await refusal(inbox.acknowledge(message("m-1"), proof()))

        assert Reason.MESSAGE_NOT_FOUND is error.reason


class TestHints:
    async def test_name_agents_that_get_a_message(self, inbox):
        """From the moment that the watch stands; repeats are no news."""
        async with inbox.hints(TOWN) as hints:
            await inbox.enqueue(message("m-1"), "Hello")

            assert MAYOR.agent == await next_hint(hints)

    async def test_are_of_one_town(self, inbox):
        """Another town's messages are nobody's business here."""
        other = type(MAYOR)("town-2", "spy")
        await inbox.register_agent(other, SPEC)
        async with inbox.hints(TOWN) as hints:
            await inbox.enqueue(message("m-1", other), "Hello")
            await inbox.enqueue(message("m-1"), "Hello")

            assert MAYOR.agent == await next_hint(hints)


async def next_hint(hints) -> str:
    """The next hint that is not just a reminder to list."""
    async with asyncio.timeout(5):
        return await anext(agent async for agent in hints if agent != MISSED)


async def test_an_answer_stays_below_the_size_of_a_message(inbox):
    """Large messages make short pages, never a page too large to send."""
    text = "x" * 262_144
    for index in range(13):
        await inbox.enqueue(message(f"m-{index:02}"), text)

    page = await inbox.list_messages(MAYOR, limit=13)
    rest = await inbox.list_messages(MAYOR, limit=13, after=page.after)
    assert sum(len(each.text) for each in page.messages) < ANSWER_BYTES_MAX
    assert [f"m-{index:02}" for index in range(13)] == [
        each.name.message for each in page.messages + rest.messages
    ]
