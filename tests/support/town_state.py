"""All that bad input could change in a town, as its owners see it."""

from __future__ import annotations

from typing import Any

from tests.support.town import RIG, Town
from tests.support.waiting import wait_until_sync
from townkeeper.registry.v1 import registry_pb2


def everything(town: Town, *agents: str) -> dict[str, Any]:
    """Lists, records, runs, inboxes and sessions; agents are named for the last two."""
    found: dict[str, Any] = {
        "list": town.get("container-registry", kind="container").json(),
        "drain": town.get("drain-status", kind="container").json(),
        "mayor": town.get("mayor/status").json(),
    }
    listed = town.plane.registry("container", town=town.name).ListAgents(
        registry_pb2.ListAgentsRequest(parent=f"towns/{town.name}")
    )
    for one in listed.agents:
        found[one.name] = (one.etag, one.spec, one.pending_messages_count)
    for agent in agents:
        found[f"session of {agent}"] = session(town, agent)
        found[f"inbox of {agent}"] = list(town.messages(agent))
        status = town.status(agent)
        kept = ("status", "startedAt", "messageCount", "epoch", "error")
        found[f"run of {agent}"] = {name: status[name] for name in kept}
    return found


def session(town: Town, agent: str) -> tuple[bytes, str, Any]:
    """The newest generation's bytes and tag, and the list of all."""
    route = f"rigs/{RIG}/agents/{agent}/db-snapshot"
    newest = town.get(route, kind="container")
    listed = town.get(f"{route}/generations", kind="container").json()
    return newest.content, newest.headers.get("etag", ""), listed


def wait_until_quiet(town: Town, *agents: str) -> None:
    """Returns when what was done has been saved and heard of everywhere."""
    seen: list[dict[str, Any]] = [{}]

    def quiet() -> bool:
        seen.append(everything(town, *agents))
        return seen[-1] == seen[-2]

    wait_until_sync(quiet, what="the town is quiet", limit_s=30)
