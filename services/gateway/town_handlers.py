"""Routes of a whole town: the list of agents that must run, drains, its token."""

from __future__ import annotations

from datetime import UTC, datetime

from starlette.responses import Response

from services.chassis.names import InstanceName
from services.gateway import json_body
from services.gateway.exchange import Exchange, bare, data
from services.gateway.json_body import Fields
from services.gateway.problems import Issue, Problem
from services.gateway.spec_wire import entries_to_json

INSTANCE_HEADER = "x-townkeeper-instance"


async def read_registry(exchange: Exchange) -> Response:
    """Lists what must run in the town."""
    agents = await exchange.registry.active_agents(exchange.town)
    return Response(entries_to_json(agents), media_type="application/json")


async def replace_registry(exchange: Exchange) -> Response:
    """Replaces the list of what must run; entries are kept word for word."""
    body = json_body.decode(exchange.loaded)
    entries = json_body.split_list(body)
    issues: list[Issue] = []
    for index, (entry, _) in enumerate(entries):
        fields = Fields(entry, (index,), issues)
        fields.text("agentId", least=1)
        fields.object("request")
        fields.text("workdir", required=True)
        fields.text_map("env", required=True)
    Fields({}, issues=issues).done()
    await exchange.registry.replace(exchange.town, [text for _, text in entries])
    return bare({"success": True})


async def announce_drain(exchange: Exchange) -> Response:
    """Says that containers are about to go: the one named in a header, else all."""
    instance = exchange.headers.get(INSTANCE_HEADER)
    names: list[str] = []
    if instance is not None:
        names = [str(InstanceName(exchange.ids["town"], instance))]
    nonce = await exchange.registry.announce_drain(exchange.town, names)
    return data({"acknowledged": True, "drainNonce": nonce})


async def confirm_ready(exchange: Exchange) -> Response:
    """Ends a drain by its nonce."""
    fields = exchange.json_fields(absent=b"{}")
    nonce = fields.text("nonce")
    fields.done()
    if not nonce:
        raise Problem(400, "Missing required field: nonce", reason="FIELD_REQUIRED")
    cleared = await exchange.registry.confirm_ready(exchange.town, nonce)
    return data({"cleared": cleared})


async def read_drain(exchange: Exchange) -> Response:
    """Tells whether the town drains."""
    draining, nonce = await exchange.registry.drain_status(exchange.town)
    return data({"draining": draining, "drainNonce": nonce or None})


async def refresh_token(exchange: Exchange) -> Response:
    """Exchanges a container's token for a new one, a day after its end at most."""
    assert exchange.caller is not None, "the route is for containers"
    token = await exchange.registry.container_token(exchange.town)
    expired = exchange.caller.expires_at <= datetime.now(UTC)
    return data({"token": token, "expiredInbound": expired})
