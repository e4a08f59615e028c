"""Routes by which agents, or the containers around them, speak of themselves."""

from __future__ import annotations

from typing import Final

from starlette.responses import Response

from services.chassis.errors import Reason
from services.chassis.names import check_id
from services.gateway.agent_handlers import idempotency_key
from services.gateway.callbacks_client import MODES, PRIORITIES, NudgeSpec
from services.gateway.exchange import Exchange, data
from services.gateway.problems import Problem

STATUS_CHARS_MAX: Final = 280
AGENT_HEADER: Final = "x-gastown-agent-id"
DROPPED_HEADER: Final = "x-townkeeper-dropped-events"
EVENTS_DEFAULT: Final = 500
EVENTS_MAX: Final = 1000
NUDGE_TTL_S_MAX: Final = 7 * 24 * 3600
SPEAKER_TEXT: Final = "agent_id does not match authenticated agent"
TARGET_TEXT: Final = "target_agent_id does not match authenticated agent"
_OUTCOMES: Final = {"completed": False, "failed": True}


def check_speaker(exchange: Exchange, agent: str) -> None:
    """Raises 403 unless the caller may speak for an agent that its body names."""
    caller = exchange.caller
    assert caller is not None, "routes of agents are not open"
    # A container says in a header for which of its agents it speaks, if it does.
    own = caller.agent or exchange.headers.get(AGENT_HEADER)
    if own and own != agent:
        raise Problem(403, SPEAKER_TEXT, reason=Reason.AGENT_FOREIGN.name)


async def heartbeat(exchange: Exchange) -> Response:
    """Takes a sign of life; tells of a drain how to confirm its end."""
    fields = exchange.json_fields(absent=b"{}")
    event_type = fields.text("lastEventType")
    event_time = fields.moment("lastEventAt")
    tools = fields.texts("activeTools")
    container = fields.text("containerInstanceId")
    fields.done()
    nonce = await exchange.registry.report_heartbeat(
        exchange.agent,
        event_type=event_type,
        event_time=event_time,
        tools=tools,
        container=container,
    )
    return data({"heartbeat": True} | ({"drainNonce": nonce} if nonce else {}))


async def completed(exchange: Exchange) -> Response:
    """Notes that an agent's work is over. The supervisor itself ends its runs."""
    fields = exchange.json_fields()
    failed = fields.word("status", _OUTCOMES, None)
    if failed is None and not fields.issues:
        fields.complain("is required: give completed or failed", "status")
    reason = fields.text("reason")
    fields.text("agentId")
    fields.done()
    await exchange.registry.report_completion(
        exchange.agent, failed=bool(failed), reason=reason
    )
    return data({"completed": True})


async def waiting(exchange: Exchange) -> Response:
    """Notes that a turn is over and somebody has to speak."""
    fields = exchange.json_fields(absent=b"{}")
    fired = fields.moment("firedAt")
    fields.text("agentId")
    fields.done()
    await exchange.registry.report_waiting(exchange.agent, fired)
    return data({"acknowledged": True})


async def status(exchange: Exchange) -> Response:
    """Notes what an agent says it is doing."""
    fields = exchange.json_fields()
    text = fields.text("message", required=True).strip()
    if not fields.issues and not 1 <= len(text) <= STATUS_CHARS_MAX:
        fields.complain(f"must have 1 to {STATUS_CHARS_MAX} characters", "message")
    fields.done()
    await exchange.registry.report_status(exchange.agent, text)
    return data({"ok": True})


async def checkpoint(exchange: Exchange) -> Response:
    """Keeps a value for the agent's next prompt."""
    fields = exchange.json_fields()
    value = fields.json("data")
    fields.done()
    await exchange.registry.report_checkpoint(exchange.agent, value)
    return data({"written": True})


async def append_event(exchange: Exchange) -> Response:
    """Appends an event to an agent's log."""
    fields = exchange.json_fields()
    agent = fields.text("agent_id", least=1)
    event_type = fields.text("event_type", least=1)
    value = fields.json("data")
    fields.done()
    name = exchange.agent_name(agent)
    check_speaker(exchange, agent)
    await exchange.registry.append_event(
        name, event_type, value, request_id=idempotency_key(exchange)
    )
    return data({"appended": True}, 201)


async def list_events(exchange: Exchange) -> Response:
    """Lists an agent's events behind an id, oldest first."""
    after = exchange.query_number("after_id") or 0
    limit = exchange.query_number("limit", 1, EVENTS_MAX) or EVENTS_DEFAULT
    rows, dropped = await exchange.registry.list_events(exchange.agent, after, limit)
    response = data([{**row, "agent_id": exchange.ids["agent"]} for row in rows])
    response.headers[DROPPED_HEADER] = str(dropped)
    return response


async def nudge(exchange: Exchange) -> Response:
    """Accepts a short message for a good moment of an agent."""
    fields = exchange.json_fields()
    target = fields.text("target_agent_id", least=1)
    wanted = NudgeSpec(
        text=fields.text("message", least=1),
        mode=fields.word("mode", {word: word for word in MODES}, "wait-idle"),
        priority=fields.word("priority", {word: word for word in PRIORITIES}, "normal"),
        source=_source(exchange),
        ttl_s=fields.number("ttl_seconds", 1, NUDGE_TTL_S_MAX),
    )
    if wanted.ttl_s is not None and wanted.mode != "queue":
        fields.complain("is for mode queue only", "ttl_seconds")
    fields.done()
    name = exchange.agent_name(target)
    caller = exchange.caller
    if caller is not None and caller.agent and caller.agent != target:
        raise Problem(403, TARGET_TEXT, reason=Reason.AGENT_FOREIGN.name)
    nudge_id = await exchange.registry.enqueue_nudge(
        name, wanted, nudge_id=idempotency_key(exchange)
    )
    return data({"nudge_id": nudge_id})


def _source(exchange: Exchange) -> str:
    """Who speaks, as far as that is known."""
    caller = exchange.caller
    own = caller.agent if caller is not None else None
    speaker = own or exchange.headers.get(AGENT_HEADER)
    return f"agent:{check_id(speaker, 'agent')}" if speaker else "container"


async def pending_nudges(exchange: Exchange) -> Response:
    """Lists what waits to be said to an agent: urgent first, then the oldest."""
    return data(await exchange.registry.pending_nudges(exchange.agent))


async def mark_nudge(exchange: Exchange) -> Response:
    """Notes that a nudge of this agent was said."""
    fields = exchange.json_fields()
    nudge_id = fields.text("nudge_id", least=1)
    fields.done()
    await exchange.registry.acknowledge_nudge(exchange.agent, nudge_id)
    return data({"marked": True})
