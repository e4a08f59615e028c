"""The whole HTTP surface in one table: who may call what. What is not here is 404."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

from starlette.responses import JSONResponse, Response

from services.chassis.auth import Kind
from services.gateway import agent_handlers as agents
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
SNAPSHOT_DELETE: Final = Access(
    frozenset({Kind.CONTAINER, Kind.OPERATOR}), known=frozenset({Kind.AGENT})
)
DRAIN: Final = Access(frozenset({Kind.CONTAINER, Kind.OPERATOR}))
PEOPLE: Final = Access(frozenset({Kind.USER, Kind.OPERATOR}))

_TOWN: Final = "/api/towns/{town}"
_SNAPSHOT: Final = f"{_TOWN}/rigs/{{rig}}/agents/{{agent}}/db-snapshot"
_CONTAINER: Final = f"{_TOWN}/container"
_AGENT: Final = f"{_CONTAINER}/agents/{{agent}}"
_MAYOR: Final = f"{_TOWN}/mayor"


@cache
def _description() -> dict[str, Any]:
    return describe(ROUTES)


async def read_openapi(_: Exchange) -> Response:
    return JSONResponse(_description())


def _open(pattern: str, handler: Any, summary: str) -> Route:
    return Route("GET", pattern, ANYONE, handler, summary, style=Style.BARE)


ROUTES: Final[tuple[Route, ...]] = (
    _open("/", opened.read_root, "Says that it is there."),
    _open("/health", opened.read_alive, "The process is alive."),
    _open("/healthz", opened.read_alive, "The process is alive."),
    _open("/readyz", opened.read_ready, "Registry and snapshots are serving."),
    _open("/metrics", opened.read_metrics, "Counters, in Prometheus' format."),
    _open("/.well-known/jwks.json", opened.read_keys, "Keys that tokens verify with."),
    _open("/openapi.json", read_openapi, "This table, for machines."),
    # what must run
    Route(
        "GET",
        f"{_TOWN}/container-registry",
        LIST,
        towns.read_registry,
        "Lists what must run in the town.",
    ),
    Route(
        "POST",
        f"{_TOWN}/container-registry",
        LIST,
        towns.replace_registry,
        "Replaces the list of what must run.",
        Body.JSON,
    ),
    # an agent's session
    Route(
        "GET",
        _SNAPSHOT,
        SNAPSHOT_READ,
        snapshots.read_snapshot,
        "Sends an agent's snapshot, whole or in part.",
    ),
    Route(
        "POST",
        _SNAPSHOT,
        SNAPSHOT_WRITE,
        snapshots.write_snapshot,
        "Makes the body the agent's next generation.",
        Body.BYTES,
    ),
    Route(
        "DELETE",
        _SNAPSHOT,
        SNAPSHOT_DELETE,
        snapshots.delete_snapshot,
        "Deletes an agent's snapshot, all generations or one.",
    ),
    Route(
        "GET",
        f"{_SNAPSHOT}/generations",
        SNAPSHOT_READ,
        snapshots.list_generations,
        "Lists the generations of an agent's snapshot.",
    ),
    # drains
    Route(
        "POST",
        f"{_TOWN}/container-eviction",
        DRAIN,
        towns.announce_drain,
        "Says that containers are about to go.",
    ),
    Route(
        "POST",
        f"{_TOWN}/container-ready",
        DRAIN,
        towns.confirm_ready,
        "Ends a drain by its nonce.",
        Body.JSON,
    ),
    Route(
        "GET",
        f"{_TOWN}/drain-status",
        DRAIN,
        towns.read_drain,
        "Tells whether the town drains.",
    ),
    # agents in containers
    Route(
        "POST",
        f"{_CONTAINER}/agents/start",
        PEOPLE,
        agents.start_agent,
        "Starts an agent; answers when it is ready.",
        Body.JSON,
        Style.BARE,
    ),
    Route(
        "POST",
        f"{_AGENT}/stop",
        PEOPLE,
        agents.stop_agent,
        "Stops an agent; answers when its last state is saved.",
        style=Style.BARE,
    ),
    Route(
        "POST",
        f"{_AGENT}/message",
        PEOPLE,
        agents.message_agent,
        "Accepts a message for an agent.",
        Body.JSON,
        Style.BARE,
    ),
    Route(
        "PATCH",
        f"{_AGENT}/model",
        PEOPLE,
        agents.change_model,
        "Changes an agent's model; its session stays.",
        Body.JSON,
        Style.BARE,
    ),
    Route(
        "GET",
        f"{_AGENT}/status",
        PEOPLE,
        agents.read_status,
        "Tells how an agent is.",
        style=Style.BARE,
    ),
    Route(
        "GET",
        f"{_AGENT}/events",
        PEOPLE,
        agents.read_events,
        "Lists an agent's events after an id.",
        style=Style.BARE,
    ),
    Route(
        "GET",
        f"{_CONTAINER}/health",
        PEOPLE,
        agents.read_health,
        "Tells how the town's containers are.",
        style=Style.BARE,
    ),
    # the mayor
    Route(
        "POST",
        f"{_MAYOR}/configure",
        PEOPLE,
        mayor.configure,
        "Stores how to start the mayor.",
        Body.JSON,
    ),
    Route(
        "POST",
        f"{_MAYOR}/ensure",
        PEOPLE,
        mayor.ensure,
        "Starts the mayor unless it runs.",
    ),
    Route(
        "POST",
        f"{_MAYOR}/message",
        PEOPLE,
        mayor.message,
        "Accepts a message for the mayor, and starts it if needed.",
        Body.JSON,
    ),
    Route(
        "GET",
        f"{_MAYOR}/status",
        PEOPLE,
        mayor.read_status,
        "Tells how the mayor's session is.",
    ),
    Route(
        "POST",
        f"{_MAYOR}/completed",
        PEOPLE,
        mayor.completed,
        "Takes note that the mayor has finished.",
        Body.JSON,
    ),
    Route(
        "POST",
        f"{_MAYOR}/destroy",
        PEOPLE,
        mayor.destroy,
        "Stops and ends the mayor; its snapshot stays.",
    ),
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
