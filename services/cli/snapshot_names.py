"""How commands name an agent, one of its generations, or a time."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer
from google.protobuf.timestamp_pb2 import Timestamp

from services.chassis.names import AgentName, SnapshotName
from services.cli.connection import Session, checked
from townkeeper.snapshots.v1 import snapshots_pb2

AgentId = Annotated[
    str,
    typer.Argument(
        metavar="AGENT", help="Its id, or towns/T/agents/A.", show_default=False
    ),
]

At = Annotated[
    datetime | None,
    typer.Option(help="The newest at or before this time (UTC)."),
]


Generation = Annotated[int, typer.Argument(min=0, help="Its number; 0 is the newest.")]


def newest_of(session: Session, agent: AgentName, generation: int) -> str:
    """The name of a generation by its number, also where 0 stands for the newest."""
    name = named(agent, generation)
    if generation:
        return str(name)
    request = snapshots_pb2.GetSnapshotRequest(name=str(name))
    return session.snapshots().GetSnapshot(request).snapshot.name


def named(agent: AgentName, generation: int) -> SnapshotName:
    """A generation by its number; 0 is the newest."""
    return checked(lambda: SnapshotName(agent.town, agent.agent, generation))


def utc(at: datetime | None) -> Timestamp | None:
    """A time without a zone is UTC, as all times that are shown."""
    if at is None:
        return None
    moment = Timestamp()
    moment.FromDatetime(at.replace(tzinfo=UTC))
    return moment
