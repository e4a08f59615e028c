"""The whole HTTP surface in one table: who may call what. What is not here is 404."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

from starlette.responses import JSONResponse, Response

from services.chassis.access import RENEWAL_GRACE_S
from services.chassis.auth import Kind
from services.gateway import agent_handlers as agents
from services.gateway import callback_handlers as callbacks
from services.gateway import mayor_handlers as mayor
from services.gateway import open_handlers as opened
from services.gateway import snapshot_handlers as snapshots
from services.gateway import town_handlers as towns
from services.gateway.exchange import Exchange, Style
from services.gateway.openapi import describe
from services.gateway.route import Access, Body, Route

ANYONE: Final = Access(frozenset())
LIST: Final = Access(
    frozenset({Kind.CONTAINER}), known=frozenset({Kind.AGENT, Kind.OPERATOR})
)
SNAPSHOT_READ: Final = Access(frozenset({Kind.CONTAINER, Kind.AGENT, Kind.OPERATOR}))
SNAPSHOT_WRITE: Final = LIST
CONTAINER: Final = Access(frozenset({Kind.CONTAINER}))
FLEET: Final = Access(
    frozenset({Kind.CONTAINER, Kind.OPERATOR}), known=frozenset({Kind.AGENT})
)
DRAIN: Final = Access(frozenset({Kind.CONTAINER, Kind.OPERATOR}))
ITSELF: Final = Access(frozenset({Kind.CONTAINER, Kind.AGENT}))
IN_BODY: Final = Access(ITSELF.kinds, by_body=True)
PEOPLE: Final = Access(frozenset({Kind.USER, Kind.OPERATOR}))

JSON, BYTES, BARE = Body.JSON, Body.BYTES, Style.BARE

_TOWN: Final = "/api/towns/{town}"
_SNAPSHOT: Final = f"{_TOWN}/rigs/{{rig}}/agents/{{agent}}/db-snapshot"
_RIG: Final = f"{_TOWN}/rigs/{{rig}}"
_CALLBACK: Final = f"{_RIG}/agents/{{agent}}"
_CONTAINER: Final = f"{_TOWN}/container"
_AGENT: Final = f"{_CONTAINER}/agents/{{agent}}"
_MAYOR: Final = f"{_TOWN}/mayor"


@cache
def _description() -> dict[str, Any]:
    return describe(ROUTES)


async def read_openapi(_: Exchange) -> Response:
    """This table, for machines."""
    return JSONResponse(_description())


ROUTES: Final[tuple[Route, ...]] = (
    # probes and documents
    Route("GET", "/", ANYONE, opened.read_root, style=BARE),
    Route("GET", "/health", ANYONE, opened.read_alive, style=BARE),
    Route("GET", "/healthz", ANYONE, opened.read_alive, style=BARE),
    Route("GET", "/readyz", ANYONE, opened.read_ready, style=BARE),
    Route("GET", "/metrics", ANYONE, opened.read_metrics, style=BARE),
    Route("GET", "/.well-known/jwks.json", ANYONE, opened.read_keys, style=BARE),
    Route("GET", "/openapi.json", ANYONE, read_openapi, style=BARE),
    # what must run
    Route("GET", f"{_TOWN}/container-registry", LIST, towns.read_registry),
    Route("POST", f"{_TOWN}/container-registry", LIST, towns.replace_registry, JSON),
    # the session of an agent
    Route("GET", _SNAPSHOT, SNAPSHOT_READ, snapshots.read_snapshot, BYTES),
    Route("POST", _SNAPSHOT, SNAPSHOT_WRITE, snapshots.write_snapshot, BYTES),
    Route("DELETE", _SNAPSHOT, FLEET, snapshots.delete_snapshot),
    Route("GET", f"{_SNAPSHOT}/generations", SNAPSHOT_READ, snapshots.list_generations),
    # drains
    Route("POST", f"{_TOWN}/container-eviction", DRAIN, towns.announce_drain),
    Route("POST", f"{_TOWN}/container-ready", DRAIN, towns.confirm_ready, JSON),
    Route("GET", f"{_TOWN}/drain-status", DRAIN, towns.read_drain),
    # what a container asks for itself
    Route(
        "POST",
        f"{_TOWN}/refresh-container-token",
        CONTAINER,
        towns.refresh_token,
        grace_s=RENEWAL_GRACE_S,
    ),
    Route("GET", f"{_TOWN}/mayor-id", FLEET, mayor.read_id),
    # what agents say of themselves
    Route("POST", f"{_CALLBACK}/heartbeat", ITSELF, callbacks.heartbeat, JSON),
    Route("POST", f"{_CALLBACK}/completed", ITSELF, callbacks.completed, JSON),
    Route("POST", f"{_CALLBACK}/waiting", ITSELF, callbacks.waiting, JSON),
    Route("POST", f"{_CALLBACK}/status", ITSELF, callbacks.status, JSON),
    Route("POST", f"{_CALLBACK}/checkpoint", ITSELF, callbacks.checkpoint, JSON),
    Route("GET", f"{_CALLBACK}/events", ITSELF, callbacks.list_events),
    Route("POST", f"{_RIG}/agent-events", IN_BODY, callbacks.append_event, JSON),
    Route("POST", f"{_RIG}/nudge", IN_BODY, callbacks.nudge, JSON),
    Route("GET", f"{_CALLBACK}/pending-nudges", ITSELF, callbacks.pending_nudges),
    Route("POST", f"{_CALLBACK}/nudge-delivered", ITSELF, callbacks.mark_nudge, JSON),
    # agents in containers
    Route("POST", f"{_CONTAINER}/agents/start", PEOPLE, agents.start_agent, JSON, BARE),
    Route("POST", f"{_AGENT}/stop", PEOPLE, agents.stop_agent, style=BARE),
    Route("POST", f"{_AGENT}/message", PEOPLE, agents.message_agent, JSON, BARE),
    Route("PATCH", f"{_AGENT}/model", PEOPLE, agents.change_model, JSON, BARE),
    Route("GET", f"{_AGENT}/status", PEOPLE, agents.read_status, style=BARE),
    Route("GET", f"{_AGENT}/events", PEOPLE, agents.read_events, style=BARE),
    Route("GET", f"{_CONTAINER}/health", PEOPLE, agents.read_health, style=BARE),
    # the mayor
    Route("POST", f"{_MAYOR}/configure", PEOPLE, mayor.configure, JSON),
    Route("POST", f"{_MAYOR}/ensure", PEOPLE, mayor.ensure),
    Route("POST", f"{_MAYOR}/message", PEOPLE, mayor.message, JSON),
    Route("GET", f"{_MAYOR}/status", PEOPLE, mayor.read_status),
    Route("POST", f"{_MAYOR}/completed", PEOPLE, mayor.completed, JSON),
    Route("POST", f"{_MAYOR}/destroy", PEOPLE, mayor.destroy),
)


def find(method: str, raw_path: bytes) -> tuple[Route, dict[str, bytes]] | None:
    """The route of a request. HEAD is a GET whose body is left out."""
    segments = tuple(raw_path.split(b"/"))
    wanted = "GET" if method == "HEAD" else method
    for route in ROUTES:
        if route.method == wanted:
            ids = route.match(segments)
            if ids is not None:
                return route, ids
    return None
