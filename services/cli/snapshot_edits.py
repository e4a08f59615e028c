"""`townkeeper snapshots`: what is said about saved states, and which there are."""

from __future__ import annotations

from typing import Annotated

import typer

from services.cli.connection import Session, connected
from services.cli.output import plain
from services.cli.snapshot_names import AgentId, named
from townkeeper.snapshots.v1 import snapshots_pb2


@connected
def delete(
    session: Session,
    agent: AgentId,
    generation: Annotated[
        int, typer.Argument(min=0, help="Its number; 0 for all of them.")
    ],
    epoch: Annotated[
        int | None,
        typer.Option(min=0, help="Needed while a supervisor owns the agent."),
    ] = None,
) -> None:
    """Delete one generation other than the newest, or all of them for good.

    One generation can be brought back for a week, by UndeleteSnapshot.

    Example: townkeeper snapshots delete mayor 12 --epoch 3
    """
    agent_name = session.agent(agent)
    name = str(named(agent_name, generation)) if generation else ""
    request = snapshots_pb2.DeleteSnapshotRequest(
        name=name or f"{agent_name}/snapshots/-", epoch=epoch
    )
    answer = session.snapshots().DeleteSnapshot(request)
    if session.out.as_json:
        session.out.json(plain(answer))
        return
    session.out.line(f"deleted {answer.deleted_count} of {agent_name}")


@connected
def reindex(
    session: Session,
    agent: Annotated[
        str | None,
        typer.Argument(
            metavar="[AGENT]",
            help="Only this one; else the whole town.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Rebuild what Redis knows of a town from the records in the blob store.

    For a Redis that was restored from a copy, or lost. All owners are fenced: agents
    that run are started anew on the session they have, and lose nothing.

    Example: townkeeper snapshots reindex --town dev
    """
    name = str(session.agent(agent)) if agent else f"towns/{session.town}"
    request = snapshots_pb2.ReindexTownRequest(name=name)
    titles = ("AGENT", "GENERATIONS", "HEAD", "EPOCH")
    rows = []
    with session.out.working(f"rebuilding {name}"):
        for done in session.snapshots().ReindexTown(request):
            if session.out.as_json:
                session.out.json_line(plain(done))
            short = done.agent.rpartition("/")[2]
            rows.append(
                (short, done.generation_count, done.head or "-", done.epoch or "-")
            )
    if not session.out.as_json:
        session.out.table(titles, rows)
