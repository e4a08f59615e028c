"""What every store promises of reports."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from services.chassis.errors import Reason, ServiceError
from services.registry.reports import (
    CHECKPOINT_BYTES_MAX,
    Checkpoint,
    Completion,
    Heartbeat,
    Outcome,
    Status,
    Waiting,
)
from services.registry.store import RegistryStore
from tests.support.registry_samples import (
    ADDRESS,
    BOOT,
    FIRST,
    MAYOR,
    POLECAT,
    SPEC,
)
from tests.support.registry_time import Time
from tests.support.tokens import TOWN

MOMENT = datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC)
HEARTBEAT = Heartbeat("message.updated", MOMENT, ("bash", "edit"), "container-1")


@pytest.fixture
async def agent(store: RegistryStore) -> RegistryStore:
    await store.register_agent(MAYOR, SPEC)
    return store


async def told(store: RegistryStore, name=MAYOR) -> list[object]:
    return [one.report for one in await store.reports(name)]


@pytest.mark.parametrize(
    "report",
    [
        HEARTBEAT,
        Heartbeat(),
        Status("Reading \0 the code \U0001f9d9"),
        Completion(Outcome.FAILED, "no way"),
        Waiting(MOMENT),
        Waiting(),
        Checkpoint('{"a": 12345678901234567890, "b": 1.0}'),
        Checkpoint('"' + "x" * (CHECKPOINT_BYTES_MAX - 2) + '"'),
    ],
    ids=lambda report: type(report).__name__,
)
async def test_a_report_reads_back_as_it_was_made(agent, report):
    """Word for word, whatever it holds."""
    await agent.report(MAYOR, report)

    assert [report] == await told(agent)


async def test_the_last_report_of_each_kind_is_kept(agent):
    """A newer one replaces it; other kinds and other agents stay as they are."""
    await agent.register_agent(POLECAT, SPEC)
    await agent.report(MAYOR, Status("Reading"))
    await agent.report(MAYOR, HEARTBEAT)
    await agent.report(POLECAT, Status("Sleeping"))
    await agent.report(MAYOR, Status("Writing"))

    assert [HEARTBEAT, Status("Writing")] == await told(agent)
    assert [Status("Sleeping")] == await told(agent, POLECAT)


async def test_a_report_says_when_it_came(agent):
    """By the store's clock, not by the agent's."""
    await agent.report(MAYOR, Status("Reading"))
    record = await agent.get_agent(MAYOR)

    (one,) = await agent.reports(MAYOR)
    assert timedelta(0) <= one.report_time - record.create_time < timedelta(minutes=1)


async def test_a_report_is_no_change_of_the_record(agent):
    """A heartbeat confirms that the agent lives, and wakes no watcher."""
    await agent.register_agent(MAYOR, SPEC, configure_only=True)
    before = await agent.get_agent(MAYOR)

    await agent.report(MAYOR, HEARTBEAT)
    await agent.report(MAYOR, Completion(Outcome.COMPLETED))

    assert before == await agent.get_agent(MAYOR)


async def test_a_report_is_told_of_a_drain(agent, time: Time):
    """As long as it is on; that is how containers learn the nonce."""
    await agent.register_instance(FIRST, BOOT, ADDRESS)
    before = await agent.report(MAYOR, HEARTBEAT)
    drain = await agent.announce_drain(TOWN)
    during = await agent.report(MAYOR, HEARTBEAT)
    await agent.confirm_ready(TOWN, drain.nonce)

    assert ("", drain.nonce, "") == (
        before,
        during,
        await agent.report(MAYOR, HEARTBEAT),
    )


async def test_reports_go_with_the_record(agent):
    """Who is registered anew under the name has said nothing yet."""
    for report in (HEARTBEAT, Status("x"), Waiting(), Checkpoint("1")):
        await agent.report(MAYOR, report)
    await agent.report(MAYOR, Completion(Outcome.COMPLETED))
    await agent.deregister_agent(MAYOR)
    await agent.register_agent(MAYOR, SPEC)

    assert [] == await agent.reports(MAYOR)


async def test_an_agent_that_is_not_there_reports_nothing(store):
    """There is no record to keep it with."""
    for call in (store.report(MAYOR, HEARTBEAT), store.reports(MAYOR)):
        with pytest.raises(ServiceError) as refused:
            await call
        assert Reason.AGENT_NOT_FOUND is refused.value.reason
