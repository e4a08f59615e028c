"""Routes that the container behind the worker answered: single agents and health."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any, Final

from starlette.responses import Response

from services.chassis.errors import Reason, ServiceError
from services.chassis.names import check_id
from services.gateway.exchange import Exchange, bare
from services.gateway.spec_wire import spec_from_json
from services.gateway.supervisor_client import AgentSpec, Run
from services.gateway.transcode import (
    agent_to_json,
    any_draining,
    is_active,
    record_to_json,
    run_to_json,
    town_health,
)

IDEMPOTENCY_HEADER: Final = "idempotency-key"
# Nobody to ask, or one who is on its way out: the records tell.
_NOBODY: Final = frozenset(
    {Reason.NO_INSTANCE, Reason.SERVICE_UNAVAILABLE, Reason.SHUTTING_DOWN}
)
_NOT_THERE: Final = frozenset({Reason.RUN_NOT_FOUND, Reason.NO_INSTANCE})


async def start_agent(exchange: Exchange) -> Response:
    """Starts an agent; answers when it is ready."""
    fields = exchange.json_fields()
    spec = spec_from_json(fields)
    agent = fields.text("agentId", least=1)
    town = fields.text("townId")
    if town and town != exchange.ids["town"]:
        fields.complain("must be the town of the path", "townId")
    fields.done()
    name = exchange.agent_name(agent)
    run = await start(exchange, name, spec)
    return bare(record_to_json(run, spec, agent, exchange.ids["town"]), 201)


async def start(exchange: Exchange, name: str, spec: AgentSpec | None) -> Run:
    """Starts an agent, without a spec from what is stored; 503 while all drain."""
    try:
        async with exchange.supervisor_of(name) as (supervisor, _):
            return await supervisor.start(name, spec)
    except ServiceError as error:
        if error.reason is not Reason.NO_INSTANCE:
            raise
        if not any_draining(await exchange.registry.instances(exchange.town)):
            raise
        raise ServiceError(
            Reason.DRAINING, "cannot start here: all containers of the town drain"
        ) from error


async def stop_agent(exchange: Exchange) -> Response:
    """Stops an agent wherever it runs; answers when its last state is saved."""
    await stop(exchange, exchange.agent)
    return bare({"stopped": True})


async def stop(exchange: Exchange, name: str) -> None:
    try:
        async with exchange.supervisor_of(name) as (supervisor, _):
            await supervisor.stop(name)
    except ServiceError as error:
        if error.reason not in _NOT_THERE:
            raise
        # Unknown there: unknown to the town too, ended, or waiting for a container.
        if is_active(await exchange.registry.get(name)):
            raise ServiceError(
                Reason.RUN_NOT_RUNNING,
                "cannot stop: no container has taken the agent yet; try again then",
            ) from error


async def message_agent(exchange: Exchange) -> Response:
    """Accepts a message; it is delivered though everything dies from here on."""
    fields = exchange.json_fields()
    prompt = fields.text("prompt", least=1)
    fields.done()
    message_id = await exchange.registry.enqueue(
        exchange.agent, prompt, message_id=idempotency_key(exchange)
    )
    return bare({"sent": True, "messageId": message_id})


def idempotency_key(exchange: Exchange) -> str:
    """The client's own id of a message; empty when it leaves the choice to us."""
    key = exchange.headers.get(IDEMPOTENCY_HEADER)
    return "" if key is None else check_id(key, IDEMPOTENCY_HEADER)


async def change_model(exchange: Exchange) -> Response:
    """Changes the model of a running agent, or that of its next start."""
    fields = exchange.json_fields()
    model = fields.text("model", least=1)
    small_model = fields.text("smallModel")
    fields.done()
    try:
        async with exchange.supervisor_of(exchange.agent) as (supervisor, holds):
            if holds:
                await supervisor.set_model(exchange.agent, model, small_model)
                return bare({"updated": True})
    except ServiceError as error:
        if error.reason is not Reason.NO_INSTANCE:
            raise
    await exchange.registry.set_model(exchange.agent, model, small_model)
    return bare({"updated": True})


async def read_status(exchange: Exchange) -> Response:
    """Tells how an agent is, from its run or from the records about it."""
    return bare(await status_of(exchange, exchange.agent))


async def status_of(exchange: Exchange, name: str) -> dict[str, Any]:
    """From its run where there is one, else from the records about it."""
    agent = await exchange.registry.get(name)
    short = name.rpartition("/")[2]
    run = await find_run(exchange, name)
    # A run of an earlier epoch is history: somebody else had the agent since.
    if run is not None and run.epoch >= agent.lease.epoch:
        return run_to_json(run, short)
    saved = await exchange.snapshots.find(f"{name}/snapshots/latest")
    return agent_to_json(agent, short, saved)


async def find_run(exchange: Exchange, name: str) -> Run | None:
    """The agent's run where its supervisor can be asked; None elsewhere."""
    try:
        async with exchange.supervisor_of(name) as (supervisor, _):
            return await supervisor.find_run(name)
    except ServiceError as error:
        if error.reason not in _NOBODY:
            raise
    return None


async def read_events(exchange: Exchange) -> Response:
    """The events after an id; an unknown agent has none, an unreadable id is 0."""
    text = exchange.request.query_params.get("after", "")
    after = int(text) if text.isdecimal() and len(text) < 19 else 0
    try:
        async with exchange.supervisor_of(exchange.agent) as (supervisor, _):
            events = await supervisor.events(exchange.agent, after)
    except ServiceError as error:
        if error.reason not in _NOT_THERE:
            raise
        events = []
    return bare({"events": events})


async def read_health(exchange: Exchange) -> Response:
    """The live containers of the town, added up as if they were one."""
    instances = await exchange.registry.instances(exchange.town)
    if not instances:
        raise ServiceError(
            Reason.NO_INSTANCE,
            "cannot tell: no container of the town is alive; start one",
        )
    found = await asyncio.gather(
        *(_runs(exchange, instance.address) for instance in instances)
    )
    runs = [run for some in found for run in some]
    return bare(town_health(instances, runs, datetime.now(UTC)))


async def _runs(exchange: Exchange, address: str) -> list[Run]:
    async with exchange.services.supervisor(address, exchange.token) as supervisor:
        return await supervisor.runs(exchange.town)
