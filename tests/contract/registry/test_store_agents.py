"""What every store promises of records."""

from __future__ import annotations

from dataclasses import replace

import pytest

from services.chassis.errors import Reason, ServiceError
from services.chassis.names import AgentName
from services.registry.agents import State
from services.registry.leases import Evidence
from services.registry.specs import Role
from services.registry.store import RegistryStore
from tests.support.registry_samples import (
    ADDRESS,
    BOOT,
    EXEC_SPEC,
    FIRST,
    MAYOR,
    OTHER_SPEC,
    POLECAT,
    SPEC,
    entries,
    entry_json,
    message,
    request,
)
from tests.support.registry_time import Time
from tests.support.tokens import TOWN

DAY_S = 24 * 3600.0


async def held(store: RegistryStore, name: AgentName = MAYOR) -> int:
    """Has a live instance hold the agent; returns the epoch."""
    await store.register_instance(FIRST, BOOT, ADDRESS)
    claims = await store.claim(FIRST, BOOT, [name.agent])
    lease = claims[0][0].lease
    assert lease is not None
    return lease.epoch


async def names(store: RegistryStore, **options: object) -> list[str]:
    page = await store.list_agents(TOWN, **options)  # type: ignore[arg-type]
    return [agent.name.agent for agent in page.agents]


class TestRegister:
    async def test_makes_a_record_that_must_run(self, store):
        """A registered agent is active, complete, and held by nobody."""
        made = await store.register_agent(MAYOR, SPEC)

        found = await store.get_agent(MAYOR)
        assert made == found
        assert (SPEC, State.ACTIVE, None) == (found.spec, found.state, found.lease)
        assert (0, 0, "", "") == (
            found.generation,
            found.failed_starts_count,
            found.last_error,
            found.entry_json,
        )
        assert found.create_time == found.update_time

    async def test_configures_without_wanting_it_to_run(self, store):
        """`configure_only` stores; a later registration makes it active for good."""
        first = await store.register_agent(MAYOR, SPEC, configure_only=True)
        second = await store.register_agent(MAYOR, SPEC)
        third = await store.register_agent(MAYOR, OTHER_SPEC, configure_only=True)

        assert [State.CONFIGURED, State.ACTIVE, State.ACTIVE] == [
            each.state for each in (first, second, third)
        ]

    async def test_changes_the_etag_with_every_change_and_only_then(self, store):
        """The same again is no change; another spec is one."""
        first = await store.register_agent(MAYOR, SPEC)
        same = await store.register_agent(MAYOR, SPEC)
        other = await store.register_agent(MAYOR, OTHER_SPEC)

        assert first.etag == same.etag
        assert first.etag != other.etag
        assert OTHER_SPEC == (await store.get_agent(MAYOR)).spec

    async def test_keeps_lease_and_epoch(self, store):
        """A new spec takes nothing from whoever runs the agent."""
        await store.register_agent(MAYOR, SPEC)
        epoch = await held(store)

        again = await store.register_agent(MAYOR, OTHER_SPEC)

        assert again.lease is not None
        assert (epoch, FIRST.instance, True) == (
            again.lease.epoch,
            again.lease.instance,
            again.lease.live,
        )

    async def test_brings_an_ended_agent_back(self, store):
        """Registering is wanting it to run, so the end is forgotten."""
        await store.replace_agents(TOWN, entries(entry_json()))
        await store.replace_agents(TOWN, ())
        assert State.ENDED is (await store.get_agent(POLECAT)).state

        agent = await store.register_agent(POLECAT, SPEC)

        assert (State.ACTIVE, "") == (agent.state, agent.end_reason)

    @pytest.mark.parametrize("registered", [True, False], ids=["changed", "absent"])
    async def test_refuses_a_stale_etag(self, store, registered):
        """An etag that is not the record's changes nothing."""
        if registered:
            await store.register_agent(MAYOR, SPEC)

        with pytest.raises(ServiceError) as refused:
            await store.register_agent(MAYOR, OTHER_SPEC, etag="77")

        assert Reason.ETAG_MISMATCH is refused.value.reason
        assert [MAYOR.agent] * registered == await names(store)

    async def test_takes_the_right_etag(self, store):
        """The record's own etag lets the change through."""
        first = await store.register_agent(MAYOR, SPEC)

        second = await store.register_agent(MAYOR, OTHER_SPEC, etag=first.etag)

        assert OTHER_SPEC == second.spec


class TestRequestId:
    async def test_answers_a_repeat_as_the_first(self, store):
        """Whatever happened in between, the repeat changes and tells nothing new."""
        first = await store.register_agent(MAYOR, SPEC, request_id="request-1")
        await store.register_agent(MAYOR, OTHER_SPEC)

        repeat = await store.register_agent(MAYOR, SPEC, request_id="request-1")

        assert first == repeat
        assert OTHER_SPEC == (await store.get_agent(MAYOR)).spec

    @pytest.mark.parametrize(
        ("name", "spec"),
        [
            pytest.param(MAYOR, OTHER_SPEC, id="other spec"),
            pytest.param(POLECAT, SPEC, id="other agent"),
        ],
    )
    async def test_refuses_another_request_under_the_id(self, store, name, spec):
        """One id is one request."""
        await store.register_agent(MAYOR, SPEC, request_id="request-1")

        with pytest.raises(ServiceError) as refused:
            await store.register_agent(name, spec, request_id="request-1")

        assert Reason.FIELD_INVALID is refused.value.reason

    async def test_is_forgotten_after_a_day(self, store, time: Time):
        """A repeat is recognised for 24 hours."""
        await store.register_agent(MAYOR, SPEC, request_id="request-1")
        await time.passes(DAY_S + 1)

        second = await store.register_agent(MAYOR, OTHER_SPEC, request_id="request-1")

        assert OTHER_SPEC == second.spec


class TestList:
    async def test_has_the_order_of_the_last_list_then_names(self, store):
        """Agents of a list come first, as listed; the others follow by name."""
        for name in ("b", "a"):
            await store.register_agent(AgentName(TOWN, name), SPEC)
        await store.replace_agents(TOWN, entries(entry_json("z"), entry_json("y")))
        await store.register_agent(AgentName(TOWN, "y"), SPEC)

        assert ["z", "y", "a", "b"] == await names(store)

    async def test_continues_where_a_page_ended(self, store):
        """Pages together are the list, whatever is registered in between."""
        for name in ("a", "b", "c", "d"):
            await store.register_agent(AgentName(TOWN, name), SPEC)

        first = await store.list_agents(TOWN, limit=2)
        await store.deregister_agent(AgentName(TOWN, "b"))
        await store.register_agent(AgentName(TOWN, "bb"), SPEC)
        second = await store.list_agents(TOWN, limit=3, after=first.after)

        assert ["a", "b"] == [agent.name.agent for agent in first.agents]
        assert ["bb", "c", "d"] == [agent.name.agent for agent in second.agents]
        assert "" == second.after

    async def test_filters_by_state_and_role(self, store):
        """Only what was asked for is listed, and a full page has no next one."""
        await store.register_agent(AgentName(TOWN, "a"), SPEC, configure_only=True)
        await store.register_agent(AgentName(TOWN, "b"), SPEC)
        await store.register_agent(AgentName(TOWN, "c"), EXEC_SPEC)

        assert ["b", "c"] == await names(store, state=State.ACTIVE)
        assert ["a", "b"] == await names(store, role=Role.MAYOR)
        assert ["b"] == await names(store, role=Role.MAYOR, state=State.ACTIVE)
        page = await store.list_agents(TOWN, state=State.ACTIVE, limit=2)
        assert "" == page.after

    @pytest.mark.parametrize("limit", [1, 2, 3, 500])
    async def test_pages_of_what_is_asked_for_miss_nothing(self, store, limit):
        """Few among many, in pages of any size: in order, none twice, no empty page."""
        wanted = [f"a-{n:03}" for n in range(0, 450, 90)]
        texts = [
            entry_json(name, request=request(name, role=role))
            for n in range(450)
            for name in [f"a-{n:03}"]
            for role in ["refinery" if name in wanted else "polecat"]
        ]
        await store.replace_agents(TOWN, entries(*texts))

        found, after = list[str](), ""
        while not found or after:
            page = await store.list_agents(
                TOWN, after=after, limit=limit, role=Role.REFINERY, state=State.ACTIVE
            )
            after, names = page.after, [agent.name.agent for agent in page.agents]
            assert 0 < len(names) <= limit
            found += names

        assert wanted == found

    async def test_keeps_towns_apart(self, store):
        """An agent is of one town."""
        await store.register_agent(MAYOR, SPEC)

        page = await store.list_agents("town-2")

        assert () == page.agents
        with pytest.raises(ServiceError):
            await store.get_agent(AgentName("town-2", MAYOR.agent))


class TestReplaceSpec:
    async def test_replaces_the_version_it_names(self, store):
        """The record changes if it is still the one that was read."""
        old = await store.register_agent(MAYOR, SPEC)

        new = await store.replace_spec(MAYOR, OTHER_SPEC, old.etag)

        assert new == await store.get_agent(MAYOR)
        assert (OTHER_SPEC, True) == (new.spec, new.etag != old.etag)

    async def test_refuses_another_version(self, store):
        """A record that changed meanwhile stays as it is."""
        old = await store.register_agent(MAYOR, SPEC)
        await held(store)

        with pytest.raises(ServiceError) as refused:
            await store.replace_spec(MAYOR, OTHER_SPEC, old.etag)

        assert Reason.ETAG_MISMATCH is refused.value.reason
        assert SPEC == (await store.get_agent(MAYOR)).spec

    async def test_refuses_an_agent_that_is_not_there(self, store):
        """There is nothing to change."""
        with pytest.raises(ServiceError) as refused:
            await store.replace_spec(MAYOR, SPEC, "1")

        assert Reason.AGENT_NOT_FOUND is refused.value.reason


class TestDeregister:
    async def test_forgets_the_record_and_its_inbox(self, store):
        """Nothing of it is listed, and its messages are gone."""
        await store.register_agent(MAYOR, SPEC)
        await store.enqueue(message("m-1"), "Hello")

        await store.deregister_agent(MAYOR)

        assert [] == await names(store)
        assert [] == await store.waiting_agents(TOWN)
        await store.register_agent(MAYOR, SPEC)
        assert () == (await store.list_messages(MAYOR)).messages
        again, created = await store.enqueue(message("m-1"), "Other")
        assert (1, True) == (again.sequence, created)

    async def test_keeps_the_epoch_for_ever(self, store):
        """Who held it before stays fenced by whoever holds it next."""
        await store.register_agent(MAYOR, SPEC)
        first = await held(store)
        await store.release_instance(FIRST, BOOT)
        await store.deregister_agent(MAYOR)
        await store.register_agent(MAYOR, SPEC)
        assert (await store.get_agent(MAYOR)).lease is None

        assert first < await held(store)

    async def test_refuses_while_a_live_instance_holds_it(self, store):
        """It is stopped first; the refusal names the holder."""
        await store.register_agent(MAYOR, SPEC)
        await held(store)

        with pytest.raises(ServiceError) as refused:
            await store.deregister_agent(MAYOR)

        assert Reason.LEASE_HELD is refused.value.reason
        assert str(FIRST) == refused.value.metadata["holder"]

    async def test_refuses_a_stale_etag_and_an_absent_agent(self, store):
        """Both leave everything as it was."""
        await store.register_agent(MAYOR, SPEC)

        with pytest.raises(ServiceError) as stale:
            await store.deregister_agent(MAYOR, "77")
        with pytest.raises(ServiceError) as absent:
            await store.deregister_agent(POLECAT)

        assert Reason.ETAG_MISMATCH is stale.value.reason
        assert Reason.AGENT_NOT_FOUND is absent.value.reason
        assert [MAYOR.agent] == await names(store)


class TestEvidence:
    async def test_is_kept_with_the_record(self, store):
        """What a holder says of a run is read back, and changes the etag once."""
        await store.register_agent(MAYOR, SPEC)
        epoch = await held(store)
        said = Evidence(MAYOR.agent, epoch, 7, 2, "cannot start: no model")

        await store.heartbeat(FIRST, BOOT, [said])
        first = await store.get_agent(MAYOR)
        await store.heartbeat(FIRST, BOOT, [said])
        second = await store.get_agent(MAYOR)
        await store.heartbeat(FIRST, BOOT, [Evidence(MAYOR.agent, epoch, 3)])
        third = await store.get_agent(MAYOR)

        assert (7, 2, "cannot start: no model") == (
            first.generation,
            first.failed_starts_count,
            first.last_error,
        )
        assert first == second
        assert first.etag != third.etag
        assert third == replace(
            first,
            etag=third.etag,
            update_time=third.update_time,
            failed_starts_count=0,
            last_error="",
        )
