"""Routes by which agents, or the containers around them, speak of themselves."""

from __future__ import annotations

from typing import Final

from starlette.responses import Response

from services.gateway.exchange import Exchange, data

STATUS_CHARS_MAX: Final = 280
_OUTCOMES: Final = {"completed": False, "failed": True}


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
