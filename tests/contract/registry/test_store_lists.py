"""What every store promises of whole-list writes."""

from __future__ import annotations

import pytest

from services.chassis.errors import Reason, ServiceError
from services.chassis.names import AgentName
from services.registry.agents import State
from services.registry.entries import spec_from_request
from services.registry.leases import Evidence, Release
from services.registry.store import RECORDS_BYTES_MAX, RegistryStore
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
    request,
)
from tests.support.registry_time import Time
from tests.support.tokens import TOWN


async def texts(store: RegistryStore) -> list[str]:
    page = await store.list_agents(TOWN, state=State.ACTIVE)
    return [agent.entry_json for agent in page.agents]


async def claimed(store: RegistryStore, name=FIRST, boot=BOOT) -> list[str]:
    return [agent.name.agent for agent, _ in await store.claim(name, boot)]


async def test_entries_are_kept_word_for_word_and_in_order(store):
    """What was written is read back, spaces, numbers and reserved variables too."""
    written = [
        entry_json("z", extra={"n": 12345678901234567890, "f": 1.10}),
        entry_json("a").replace(": ", " :\t"),
        entry_json("m", workdir="/workspace/\u00fc/\U0001f9d9"),
    ]

    await store.replace_agents(TOWN, entries(*written))

    assert written == await texts(store)
    agent = await store.get_agent(AgentName(TOWN, "a"))
    assert spec_from_request(request("a")) == agent.spec


async def test_a_page_stays_below_a_size(store):
    """Large entries make short pages: beside its spec, none takes more than 1 MiB."""
    written = [entry_json(f"a-{n:02}", filling="x" * 250_000) for n in range(12)]
    await store.replace_agents(TOWN, entries(*written))

    found: list[str] = []
    after = ""
    while not found or after:
        page = await store.list_agents(TOWN, after=after, limit=12)
        after, sizes = page.after, [len(agent.entry_json) for agent in page.agents]
        assert 0 < sum(sizes) < RECORDS_BYTES_MAX / 2
        found += [agent.entry_json for agent in page.agents]

    assert written == found


async def test_agents_missing_from_the_list_end(store):
    """They are kept, ended, and never claimed by a boot."""
    await store.replace_agents(TOWN, entries(entry_json("a"), entry_json("b")))

    kept = await store.replace_agents(TOWN, entries(entry_json("b")))

    ended = await store.get_agent(AgentName(TOWN, "a"))
    assert ([], State.ENDED, "stopped") == (kept, ended.state, ended.end_reason)
    await store.register_instance(FIRST, BOOT, ADDRESS)
    assert ["b"] == await claimed(store)


async def test_agents_that_a_live_instance_runs_stay(store, time: Time):
    """The list cannot drop them while they are held; it can when their holder died."""
    await store.register_agent(MAYOR, SPEC)
    await store.register_instance(FIRST, BOOT, ADDRESS)
    await store.claim(FIRST, BOOT, [MAYOR.agent])

    kept = await store.replace_agents(TOWN, ())
    assert [MAYOR.agent] == kept
    assert State.ACTIVE is (await store.get_agent(MAYOR)).state

    await time.passes(11)
    assert [] == await store.replace_agents(TOWN, ())
    assert State.ENDED is (await store.get_agent(MAYOR)).state


async def test_a_holder_that_comes_back_has_lost_what_ended_meanwhile(
    store, time: Time
):
    """It is told to kill the run: what was ended is never resurrected."""
    await store.register_agent(MAYOR, SPEC)
    await store.register_instance(FIRST, BOOT, ADDRESS)
    await store.claim(FIRST, BOOT)
    await time.passes(11)
    await store.replace_agents(TOWN, ())

    pulse = await store.heartbeat(FIRST, BOOT, [Evidence(MAYOR.agent, 1)])

    assert (MAYOR.agent,) == pulse.lost
    assert State.ENDED is (await store.get_agent(MAYOR)).state


async def test_configured_agents_are_not_in_the_list_and_not_ended_by_it(store):
    """What was stored for a later start is no agent that must run."""
    await store.register_agent(MAYOR, SPEC, configure_only=True)

    await store.replace_agents(TOWN, ())

    assert State.CONFIGURED is (await store.get_agent(MAYOR)).state


async def test_an_ended_agent_that_is_listed_again_must_run(store):
    """The list says what must run, now."""
    await store.replace_agents(TOWN, entries(entry_json()))
    await store.replace_agents(TOWN, ())

    await store.replace_agents(TOWN, entries(entry_json()))

    assert [entry_json()] == await texts(store)


async def test_new_entries_wait_for_an_instance_that_boots(store):
    """An instance that runs already does not take them unless it names them."""
    await store.register_instance(FIRST, BOOT, ADDRESS)
    await store.replace_agents(TOWN, entries(entry_json("a"), entry_json("b")))

    assert [] == await claimed(store)
    await store.register_instance(FIRST, BOOT, ADDRESS)  # no new boot
    assert [] == await claimed(store)
    assert 1 == len(await store.claim(FIRST, BOOT, ["a"]))
    await store.register_instance(SECOND, OTHER_BOOT, ADDRESS)
    assert ["b"] == await claimed(store, SECOND, OTHER_BOOT)


async def test_an_entry_that_somebody_starts_waits_for_no_boot(store):
    """Registering it is wanting it now: whoever runs may claim it."""
    await store.register_instance(FIRST, BOOT, ADDRESS)
    await store.replace_agents(TOWN, entries(entry_json()))

    await store.register_agent(POLECAT, SPEC)

    assert [POLECAT.agent] == await claimed(store)


async def test_an_entry_once_run_is_claimed_by_whoever_there_is(store, time: Time):
    """When its holder dies it is not new any more, also if it is listed again."""
    await store.replace_agents(TOWN, entries(entry_json()))
    await store.register_instance(FIRST, BOOT, ADDRESS)
    await store.register_instance(SECOND, OTHER_BOOT, ADDRESS)
    await store.claim(FIRST, BOOT)
    await store.replace_agents(TOWN, entries(entry_json()))
    await time.passes(11)
    await store.heartbeat(SECOND, OTHER_BOOT)

    claims = await store.claim(SECOND, OTHER_BOOT)

    assert [(POLECAT, True)] == [(agent.name, taken) for agent, taken in claims]


async def test_a_repeated_list_changes_nothing(store):
    """The same entries again leave every etag as it was."""
    await store.replace_agents(TOWN, entries(entry_json("a"), entry_json("b")))
    before = await store.list_agents(TOWN)

    await store.replace_agents(TOWN, entries(entry_json("a"), entry_json("b")))

    assert before == await store.list_agents(TOWN)


class TestNotUnderstood:
    @pytest.fixture
    async def broken(self, store) -> str:
        text = entry_json(request=request(role="wizard"))
        await store.replace_agents(TOWN, entries(text))
        return text

    async def test_is_kept_and_says_why(self, store, broken):
        """An entry that no one could start is read back all the same."""
        agent = await store.get_agent(POLECAT)

        assert [broken] == await texts(store)
        assert (None, State.ACTIVE) == (agent.spec, agent.state)
        assert "request.role" in agent.last_error

    async def test_is_not_claimable(self, store, broken):
        """No boot takes it, and whoever names it is told what to do."""
        await store.register_instance(FIRST, BOOT, ADDRESS)

        assert [] == await claimed(store)
        with pytest.raises(ServiceError) as refused:
            await store.claim(FIRST, BOOT, [POLECAT.agent])
        assert Reason.NO_START_REQUEST is refused.value.reason

    @pytest.mark.parametrize("again", ["registered", "listed", "updated"])
    async def test_is_mended_by_a_good_spec(self, store, broken, again):
        """Any way to a complete spec makes it claimable, and the reason goes."""
        match again:
            case "registered":
                await store.register_agent(POLECAT, SPEC)
            case "listed":
                await store.replace_agents(TOWN, entries(entry_json()))
            case "updated":
                etag = (await store.get_agent(POLECAT)).etag
                await store.replace_spec(POLECAT, SPEC, etag)
        await store.register_instance(FIRST, BOOT, ADDRESS)

        assert "" == (await store.get_agent(POLECAT)).last_error
        assert [POLECAT.agent] == await claimed(store)


class TestEntryAndSpec:
    async def test_the_same_spec_keeps_the_entry(self, store):
        """A start of a listed agent changes nothing about the list."""
        await store.replace_agents(TOWN, entries(entry_json()))
        spec = (await store.get_agent(POLECAT)).spec
        assert spec is not None

        await store.register_agent(POLECAT, spec)

        assert [entry_json()] == await texts(store)

    async def test_another_spec_drops_the_entry(self, store):
        """An entry that says something else than the spec would start the wrong one."""
        await store.replace_agents(TOWN, entries(entry_json("a"), entry_json("b")))

        await store.register_agent(AgentName(TOWN, "a"), OTHER_SPEC)

        assert ["", entry_json("b")] == await texts(store)


async def test_listing_a_running_agent_touches_neither_run_nor_lease(store):
    """Its entry is stored; whoever holds it holds it."""
    await store.register_agent(POLECAT, SPEC)
    await store.register_instance(FIRST, BOOT, ADDRESS)
    ((before, _),) = await store.claim(FIRST, BOOT)

    await store.replace_agents(TOWN, entries(entry_json()))

    after = await store.get_agent(POLECAT)
    assert (before.lease, entry_json()) == (after.lease, after.entry_json)
    assert before.lease is not None
    release = Release(POLECAT.agent, before.lease.epoch)
    assert [] == await store.release(FIRST, BOOT, [release])
    assert [POLECAT.agent] == await claimed(store)
