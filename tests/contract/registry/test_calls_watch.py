"""Watching agents, over a real port."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from services.chassis.auth import Kind
from services.chassis.errors import Reason, ServiceError
from services.chassis.names import AgentName
from services.registry.changes import PAGE_STEPS_MAX, Position, resume_token
from tests.support.registry_samples import (
    ADDRESS,
    BOOT,
    FIRST,
    MAYOR,
    OTHER_SPEC,
    POLECAT,
    SPEC,
    entries,
    entry_json,
    message,
)
from tests.support.registry_server import Registry, refused, serving
from tests.support.registry_watch import EAGER
from tests.support.tokens import FOREIGN_TOWN, TOWN
from townkeeper.registry.v1 import registry_pb2 as pb

PARENT = f"towns/{TOWN}"


@pytest.fixture
async def registry(tmp_path: Path) -> AsyncIterator[Registry]:
    limits = replace(EAGER, patience_s=0.1, bytes_max=1_000_000)
    async with serving(tmp_path, limits=limits) as made:
        await made.store.register_agent(MAYOR, SPEC)
        await made.store.register_agent(POLECAT, SPEC)
        yield made


def watch(stub: Any, resume_token: str = "", parent: str = PARENT) -> Any:
    return stub.WatchAgents(
        pb.WatchAgentsRequest(parent=parent, resume_token=resume_token)
    )


async def step(call: Any) -> pb.WatchAgentsResponse:
    async with asyncio.timeout(5):
        answer = await call.read()
    assert isinstance(answer, pb.WatchAgentsResponse), answer
    return answer


async def listed(call: Any) -> list[pb.WatchAgentsResponse]:
    """All steps up to `synced`."""
    steps = [await step(call)]
    while not steps[-1].synced:
        steps.append(await step(call))
    return steps


async def test_the_list_comes_first_then_changes(registry: Registry, stub):
    """Each as `GetAgent` shows it; between the two it is said that all are there."""
    call = watch(stub)
    steps = await listed(call)
    await registry.store.register_instance(FIRST, BOOT, ADDRESS)
    await registry.store.claim(FIRST, BOOT, [MAYOR.agent])
    change = await step(call)
    await registry.store.deregister_agent(POLECAT)
    end = await step(call)

    names = [one.changed.name for one in steps[:-1]]
    assert [str(MAYOR), str(POLECAT)] == names
    shown = await stub.GetAgent(pb.GetAgentRequest(name=str(MAYOR)))
    assert shown.agent == change.changed
    assert change.changed.lease.live
    assert str(POLECAT) == end.deregistered
    tokens = [one.resume_token for one in [*steps, change, end]]
    assert len(tokens) == len(set(tokens) - {""})


@pytest.mark.parametrize(
    ("index", "expected"),
    [
        pytest.param(0, [str(POLECAT), str(MAYOR), "synced"], id="in the list"),
        pytest.param(1, [str(MAYOR), "synced"], id="at its end"),
        pytest.param(2, [str(MAYOR)], id="behind it"),
    ],
)
async def test_every_token_goes_on_behind_its_step(registry, stub, index, expected):
    """With exactly what came after; `synced` is not said again."""
    token = (await listed(watch(stub)))[index].resume_token
    await registry.store.enqueue(message("m-1"), "Hello")

    call = watch(stub, token)
    found = [await step(call) for _ in expected]
    await registry.store.deregister_agent(POLECAT)

    assert expected == [one.changed.name or "synced" for one in found]
    assert str(POLECAT) == (await step(call)).deregistered


@pytest.mark.parametrize("kind", [Kind.CONTAINER, Kind.USER, Kind.OPERATOR])
async def test_values_are_for_containers_only(registry: Registry, kind):
    """In the list and in changes: as `GetAgent` answers the same caller."""
    stub = registry.stub(kind)
    call = watch(stub)
    await listed(call)
    await registry.store.replace_agents(TOWN, entries(entry_json(MAYOR.agent)))
    changes = [await step(call), await step(call)]
    again = (await listed(watch(stub)))[:-1]

    for one in [*changes, *again]:
        asked = pb.GetAgentRequest(name=one.changed.name)
        assert (await stub.GetAgent(asked)).agent == one.changed
        assert (kind is Kind.CONTAINER) == ("s3cret" in str(one))


async def test_values_stay_with_containers_that_watch_beside_others(registry):
    """One change goes to all, to each as it may be seen."""
    kinds = [Kind.USER, Kind.CONTAINER, Kind.OPERATOR]
    calls = [watch(registry.stub(kind)) for kind in kinds]
    for call in calls:
        await listed(call)
    await registry.store.register_agent(MAYOR, OTHER_SPEC)

    found = [(await step(call)).changed.spec for call in calls]

    assert ["", "s3cret", ""] == [spec.env_vars["GIT_TOKEN"] for spec in found]
    assert {OTHER_SPEC.model} == {spec.model for spec in found}


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        pytest.param("no token", Reason.FIELD_INVALID, id="malformed"),
        pytest.param(
            resume_token(FOREIGN_TOWN, Position("1", 1)),
            Reason.RESUME_TOKEN_EXPIRED,
            id="of another town",
        ),
        pytest.param(
            resume_token(TOWN, Position("1", 1)),
            Reason.RESUME_TOKEN_EXPIRED,
            id="of another log",
        ),
    ],
)
async def test_other_tokens_are_refused(stub, token, reason):
    """With a word that says whether to mend the call or to list again."""
    error = await refused(watch(stub, token).read())

    assert reason is error.reason


async def test_a_token_that_is_too_old_is_refused(registry: Registry, stub):
    """More was forgotten than it knows of."""
    registry.store._gone_kept = 0
    steps = await listed(watch(stub))
    await registry.store.deregister_agent(POLECAT)

    error = await refused(watch(stub, steps[-1].resume_token).read())

    assert (Reason.RESUME_TOKEN_EXPIRED, grpc.StatusCode.OUT_OF_RANGE) == (
        error.reason,
        error.code,
    )


async def test_an_open_watch_hears_of_what_is_forgotten_at_once(registry, stub):
    """It is there when it happens, unless it is too late for itself."""
    registry.store._gone_kept = 1
    call = watch(stub)
    await listed(call)
    await registry.store.deregister_agent(POLECAT)

    assert str(POLECAT) == (await step(call)).deregistered


async def test_a_watcher_that_does_not_read_is_dropped(registry: Registry, stub):
    """It is told why, and the others are told everything."""
    slow, quick = watch(stub), watch(registry.stub())
    await listed(slow)
    await listed(quick)

    for n in range(80):
        large = replace(OTHER_SPEC, prompt=f"{n:250000}")
        await registry.store.register_agent(AgentName(TOWN, f"a-{n}"), large)
        assert f"{PARENT}/agents/a-{n}" == (await step(quick)).changed.name

    error = await refused(until_the_end(slow))
    assert Reason.WATCHER_TOO_SLOW is error.reason


async def until_the_end(call: Any) -> None:
    async with asyncio.timeout(10):
        while await call.read() is not grpc.aio.EOF:
            pass


async def test_a_long_list_is_sent_whole(registry: Registry, stub):
    """Over pages, each record once."""
    names = [AgentName(TOWN, f"a-{n}") for n in range(3 * PAGE_STEPS_MAX)]
    for name in names:
        await registry.store.register_agent(name, SPEC)

    found = [one.changed.name for one in (await listed(watch(stub)))[:-1]]

    assert [str(name) for name in (MAYOR, POLECAT, *names)] == found


async def test_a_store_that_goes_away_ends_the_watch(registry: Registry, stub):
    """UNAVAILABLE; the last token goes on when it is back."""
    call = watch(stub)
    token = (await listed(call))[-1].resume_token
    registry.store.failure = ServiceError(Reason.STORE_UNAVAILABLE, "cannot: again")

    error = await refused(call.read())
    registry.store.failure = None
    await registry.store.enqueue(message("m-1"), "Hello")

    assert Reason.STORE_UNAVAILABLE is error.reason
    assert 1 == (await step(watch(stub, token))).changed.pending_messages_count


async def test_a_watch_ends_when_the_server_stops(registry: Registry, stub):
    """It keeps no server from stopping, at any point of the watch."""
    call = watch(stub)
    await listed(call)

    await registry.server.server.stop(grace_s=5)

    error = await refused(call.read())
    assert Reason.SHUTTING_DOWN is error.reason
