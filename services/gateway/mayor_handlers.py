"""Routes of the mayor, the one conversational agent of a town: found by its role."""

from __future__ import annotations

from typing import Any, Final

from starlette.responses import Response

from services.chassis.errors import Reason, ServiceError
from services.gateway.agent_handlers import (
    find_run,
    idempotency_key,
    start,
    status_of,
    stop,
)
from services.gateway.exchange import Exchange, bare, data
from services.gateway.registry_client import Agent
from services.gateway.spec_wire import mayor_spec
from services.gateway.supervisor_client import Run
from services.gateway.transcode import (
    ENDED_STATES,
    is_active,
    run_status,
    session_status,
)

UI_CONTEXT_CHARS_MAX: Final = 10_000
DEFAULT_AGENT: Final = "mayor"
_SESSION_FIELDS: Final = (
    "agentId",
    "sessionId",
    "lastActivityAt",
    "instanceId",
    "epoch",
    "generation",
    "lastSavedAt",
    "lagSeconds",
    "resumed",
    "interrupted",
)


async def configure(exchange: Exchange) -> Response:
    """Stores how to start the mayor; one that runs goes on as it is."""
    fields = exchange.json_fields()
    spec = mayor_spec(fields, exchange.ids["town"])
    agent = fields.text("agentId")
    fields.done()
    if not agent:
        known = await exchange.registry.mayor(exchange.town)
        agent = _id(known) if known else DEFAULT_AGENT
    await exchange.registry.configure(exchange.agent_name(agent), spec)
    return data({"configured": True, "agentId": agent})


async def read_id(exchange: Exchange) -> Response:
    """Names the mayor; of what it is started with, nothing."""
    mayor = await exchange.registry.mayor(exchange.town)
    return bare({"success": True, "agentId": _id(mayor) if mayor else None})


async def ensure(exchange: Exchange) -> Response:
    """Starts the mayor unless it runs; answers when it is ready."""
    mayor = await _mayor(exchange)
    run = await _living(exchange, mayor)
    if run is None:
        run = await start(exchange, mayor.name, None)
    return data({"agentId": _id(mayor), "sessionStatus": session_status(run)})


async def message(exchange: Exchange) -> Response:
    """Accepts a message first, so that no failing start can lose it, then starts."""
    fields = exchange.json_fields()
    text = fields.text("message", least=1)
    model = fields.text("model")
    context = fields.text("uiContext", most=UI_CONTEXT_CHARS_MAX)
    fields.done()
    mayor = await _mayor(exchange)
    message_id = await exchange.registry.enqueue(
        mayor.name,
        f"{context}\n\n{text}" if context else text,
        message_id=idempotency_key(exchange),
        model=model,
    )
    run = await _living(exchange, mayor)
    if run is None:
        await start(exchange, mayor.name, None)
    starting = run is None or run_status(run) != "running"
    return data(
        {
            "agentId": _id(mayor),
            "sessionStatus": "starting" if starting else "active",
            "messageId": message_id,
        }
    )


async def read_status(exchange: Exchange) -> Response:
    """Tells how the mayor's session is."""
    mayor = await exchange.registry.mayor(exchange.town)
    return data(
        {
            "configured": mayor is not None,
            "townId": exchange.ids["town"],
            "session": await _session(exchange, mayor) if mayor else None,
        }
    )


async def _session(exchange: Exchange, mayor: Agent) -> dict[str, Any] | None:
    """The session of a mayor that runs or must run; None for one that has ended."""
    run = await _living(exchange, mayor)
    if run is None and not is_active(mayor):
        return None
    status = await status_of(exchange, mayor.name)
    session = {name: status[name] for name in _SESSION_FIELDS}
    return {**session, "status": session_status(run) if run else "starting"}


async def completed(exchange: Exchange) -> Response:
    """Takes note. The supervisor itself knows how its runs end."""
    fields = exchange.json_fields()
    fields.text("status", least=1)
    fields.text("reason")
    fields.text("agentId")
    fields.done()
    return data({"acknowledged": True})


async def destroy(exchange: Exchange) -> Response:
    """Stops and ends the mayor; its session stays, saved, for a later start."""
    mayor = await exchange.registry.mayor(exchange.town)
    if mayor is not None:
        await stop(exchange, mayor.name)
    return data({"destroyed": True})


def _id(mayor: Agent) -> str:
    return mayor.name.rpartition("/")[2]


async def _mayor(exchange: Exchange) -> Agent:
    mayor = await exchange.registry.mayor(exchange.town)
    if mayor is None:
        raise ServiceError(
            Reason.NO_START_REQUEST,
            "cannot reach a mayor: none was ever configured; POST mayor/configure",
        )
    return mayor


async def _living(exchange: Exchange, mayor: Agent) -> Run | None:
    """The mayor's run unless it has ended."""
    run = await find_run(exchange, mayor.name)
    if run is None or run.epoch < mayor.lease.epoch:
        return None
    return None if run_status(run) in ENDED_STATES else run
