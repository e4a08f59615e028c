"""`townkeeper agents watch` without an agent: what changes in a town's records."""

from __future__ import annotations

import time
from typing import Final

from services.chassis.errors import Code, Reason, ServiceError, rpc_errors
from services.cli.connection import Session
from services.cli.output import plain, word
from townkeeper.registry.v1 import registry_pb2, resources_pb2
from townkeeper.registry.v1.registry_pb2_grpc import RegistryServiceStub

# A registry that was restarted is back within a second or two.
AGAIN_EVERY_S: Final = 0.5


def watch_town(session: Session, *, follow: bool, resume_token: str) -> None:
    """Prints all agents, then their changes; goes on by itself where it was cut."""
    request = registry_pb2.WatchAgentsRequest(
        parent=f"towns/{session.town}", resume_token=resume_token
    )
    stub = session.registry()
    while True:
        try:
            with rpc_errors():
                return _tell_all(session, stub, request, follow)
        except ServiceError as error:
            heard = request.resume_token != resume_token
            if not heard or not _passes(error):
                raise
        time.sleep(AGAIN_EVERY_S)


def _passes(error: ServiceError) -> bool:
    """Whether the last token goes on after this end of a watch."""
    return error.code is Code.UNAVAILABLE or error.reason is Reason.WATCHER_TOO_SLOW


def _tell_all(
    session: Session,
    stub: RegistryServiceStub,
    request: registry_pb2.WatchAgentsRequest,
    follow: bool,
) -> None:
    """Prints one stream; the request goes on behind what was printed."""
    for answer in stub.WatchAgents(request):
        if session.out.as_json:
            session.out.json_line(plain(answer))
        else:
            session.out.line(_line(answer))
        request.resume_token = answer.resume_token
        if answer.synced and not follow:
            return


def _line(answer: registry_pb2.WatchAgentsResponse) -> str:
    what = answer.WhichOneof("event")
    if what == "deregistered":
        return f"deregistered  {_id(answer.deregistered)}"
    if what != "changed":
        return str(what)
    agent = answer.changed
    instance = _id(agent.lease.instance) if agent.lease.live else "-"
    about = [
        word(resources_pb2.Agent.State, agent.state),
        f"instance {instance}",
        f"epoch {agent.lease.epoch}",
        f"generation {agent.generation or '-'}",
        f"messages {agent.pending_messages_count}",
    ]
    return f"changed       {_id(agent.name)}  {', '.join(about)}"


def _id(name: str) -> str:
    return name.rpartition("/")[2]
