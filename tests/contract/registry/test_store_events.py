"""What every store promises of the event logs of agents."""

from __future__ import annotations

import asyncio
import random
from datetime import timedelta

import pytest

from services.chassis.errors import Reason, ServiceError
from services.registry import redis_callbacks
from services.registry.event_log import DATA_BYTES_MAX
from services.registry.store import ANSWER_BYTES_MAX, RegistryStore
from tests.contract.registry.conftest import EVENT_LOG
from tests.fakes import registry_callbacks
from tests.support.registry_samples import MAYOR, POLECAT, SPEC


@pytest.fixture
async def agent(store: RegistryStore) -> RegistryStore:
    await store.register_agent(MAYOR, SPEC)
    return store


async def appended(store, count: int, name=MAYOR) -> list[int]:
    events = [
        await store.append_event(name, "turn", str(index)) for index in range(count)
    ]
    return [event.id for event in events]


async def ids(store, **options) -> list[int]:
    page = await store.list_events(MAYOR, **options)
    return [event.id for event in page.events]


async def test_events_read_back_as_they_were_appended(agent):
    """Word for word, with ids that rise by one and the store's time."""
    data = '{"a": 12345678901234567890,\n "b": "\\u0000\U0001f9d9"}'
    first = await agent.append_event(MAYOR, "message.\u00fcpdated", data)
    second = await agent.append_event(MAYOR, "idle", "null")
    record = await agent.get_agent(MAYOR)

    page = await agent.list_events(MAYOR)

    assert (first, second) == page.events
    assert (1, "message.\u00fcpdated", data) == (first.id, first.type, first.data_json)
    assert 2 == second.id
    age = first.create_time - record.create_time
    assert timedelta(0) <= age < timedelta(minutes=1)
    assert 0 == page.dropped


async def test_reading_on_neither_skips_nor_repeats(agent):
    """Page by page from the last id, also while events are appended."""
    await appended(agent, 3)
    first = await ids(agent, limit=2)
    await appended(agent, 2)
    second = await ids(agent, limit=2, after=first[-1])
    third = await ids(agent, limit=2, after=second[-1])

    assert ([1, 2], [3, 4], [5]) == (first, second, third)
    assert [] == await ids(agent, after=5)
    assert [] == await ids(agent, after=10**13)


async def test_events_appended_at_once_have_their_own_ids(agent):
    """Whoever they come from."""
    events = await asyncio.gather(
        *(agent.append_event(MAYOR, "x", "1") for _ in range(EVENT_LOG.events))
    )

    assert [1, 2, 3, 4, 5] == sorted(event.id for event in events)


async def test_logs_of_agents_are_apart(agent):
    """Each has its own ids."""
    await agent.register_agent(POLECAT, SPEC)
    await appended(agent, 2)

    assert [1] == await appended(agent, 1, POLECAT)
    assert [1, 2] == await ids(agent)


async def test_the_oldest_are_dropped_beyond_the_bound_and_counted(agent):
    """Who reads on from before them is told how many it has missed."""
    await appended(agent, EVENT_LOG.events + 3)

    page = await agent.list_events(MAYOR, after=1)

    assert [4, 5, 6, 7, 8] == [event.id for event in page.events]
    assert 2 == page.dropped
    assert 0 == (await agent.list_events(MAYOR, after=3)).dropped
    assert 0 == (await agent.list_events(MAYOR, after=20)).dropped


async def test_large_events_push_out_older_ones(agent):
    """The log is bounded in bytes as well; the newest event is always kept."""
    half, whole = ('"' + "x" * size + '"' for size in (25_000, DATA_BYTES_MAX - 2))
    await appended(agent, 3)
    await agent.append_event(MAYOR, "large", half)
    assert [1, 2, 3, 4] == await ids(agent)
    await agent.append_event(MAYOR, "large", half)
    assert [5] == await ids(agent)

    await agent.append_event(MAYOR, "larger than all that is kept", whole)
    assert [6] == await ids(agent)
    assert [7] == await appended(agent, 1)
    assert [7] == await ids(agent)


async def test_a_repeat_under_its_request_id_is_one_event(agent):
    """As long as the log keeps it; another event under the id is refused."""
    first = await agent.append_event(MAYOR, "x", "1", "r-1")
    await agent.append_event(MAYOR, "x", "1")
    again = await agent.append_event(MAYOR, "x", "1", "r-1")
    for event_type, data in (("y", "1"), ("x", "2")):
        with pytest.raises(ServiceError) as refused:
            await agent.append_event(MAYOR, event_type, data, "r-1")
        assert "request_id" == refused.value.metadata["field"]

    assert first == again
    assert [1, 2] == await ids(agent)
    await appended(agent, EVENT_LOG.events)
    assert 8 == (await agent.append_event(MAYOR, "x", "2", "r-1")).id


async def test_ids_go_on_when_the_agent_is_registered_anew(agent):
    """The log goes with the record; a reader that goes on still misses nothing."""
    await appended(agent, 3)
    await agent.append_event(MAYOR, "x", "1", "r-1")
    await agent.deregister_agent(MAYOR)
    await agent.register_agent(MAYOR, SPEC)
    assert [] == await ids(agent)
    assert 4 == (await agent.list_events(MAYOR)).dropped

    event = await agent.append_event(MAYOR, "y", "2", "r-1")

    assert 5 == event.id
    assert [5] == await ids(agent, after=4)
    assert 0 == (await agent.list_events(MAYOR, after=4)).dropped


async def test_a_new_log_has_all_its_room(agent):
    """What the former one held does not count any more."""
    half = '"' + "x" * 25_000 + '"'
    await agent.append_event(MAYOR, "large", half)
    await agent.deregister_agent(MAYOR)
    await agent.register_agent(MAYOR, SPEC)

    await agent.append_event(MAYOR, "large", half)
    await appended(agent, 1)

    assert [2, 3] == await ids(agent)


@pytest.mark.parametrize("seed", range(5))
async def test_no_history_makes_a_reader_skip_or_repeat(agent, seed):
    """Whatever is appended, pushed out or registered anew: each event is read once, as
    it was appended, or counted as dropped."""
    chance = random.Random(seed)
    appended: dict[int, str] = {}
    cursor = 0
    for step in range(120):
        what = chance.choice(["append", "append", "append large", "read", "anew"])
        if what.startswith("append"):
            data = f'"{step}{"x" * (20_000 if what == "append large" else 0)}"'
            event = await agent.append_event(MAYOR, "x", data, f"r-{step}")
            assert event.id == max(appended, default=0) + 1
            appended[event.id] = data
        elif what == "anew" and step % 10 == 0:
            await agent.deregister_agent(MAYOR)
            await agent.register_agent(MAYOR, SPEC)
        else:
            page = await agent.list_events(
                MAYOR, after=cursor, limit=chance.choice([1, 3])
            )
            for number, event in enumerate(page.events, cursor + page.dropped + 1):
                assert (number, appended[number]) == (event.id, event.data_json)
                cursor = number


async def test_an_agent_that_is_not_there_has_no_log(store):
    """Neither to append to nor to read."""
    for call in (store.append_event(MAYOR, "x", "1"), store.list_events(MAYOR)):
        with pytest.raises(ServiceError) as refused:
            await call
        assert Reason.AGENT_NOT_FOUND is refused.value.reason


async def test_an_answer_stays_below_the_size_of_a_message(agent, monkeypatch):
    """Large events make short pages."""
    assert EVENT_LOG.size_bytes < ANSWER_BYTES_MAX
    for module in (redis_callbacks, registry_callbacks):
        monkeypatch.setattr(module, "ANSWER_BYTES_MAX", 500)
    await appended(agent, 5)

    first = await ids(agent)

    assert [1, 2, 3] == first
    assert [4, 5] == await ids(agent, after=3)
