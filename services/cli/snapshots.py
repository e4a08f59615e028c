"""`townkeeper snapshots`: the saved states of an agent."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from services.chassis.names import AgentName, SnapshotName
from services.cli.connection import Session, checked, connected
from services.cli.output import moment, plain, size, word
from townkeeper.snapshots.v1 import resources_pb2, snapshots_pb2
from townkeeper.supervisor.v1 import supervisor_pb2

app: Final = typer.Typer(no_args_is_help=True, help="See and use saved states.")

RESTORE_S: Final = 900.0

AgentId = Annotated[
    str,
    typer.Argument(
        metavar="AGENT", help="Its id, or towns/T/agents/A.", show_default=False
    ),
]


@app.command("list")
@connected
def list_snapshots(
    session: Session,
    agent: AgentId,
    limit: Annotated[int, typer.Option(min=1, help="Most to list.")] = 50,
) -> None:
    """List the generations of an agent, newest first.

    Example: townkeeper snapshots list mayor
    """
    request = snapshots_pb2.ListSnapshotsRequest(parent=str(session.agent(agent)))
    found, stub = list[resources_pb2.Snapshot](), session.snapshots()
    while len(found) < limit:
        request.page_size = min(limit - len(found), 500)
        answer = stub.ListSnapshots(request)
        found += answer.snapshots
        request.page_token = answer.next_page_token
        if not request.page_token:
            break
    if session.out.as_json:
        session.out.json([plain(snapshot) for snapshot in found])
        return
    titles = ("GENERATION", "SAVED", "SIZE", "FORMAT", "SEGMENTS", "EPOCH", "SESSION")
    rows = [
        (
            snapshot.generation,
            moment(snapshot.create_time),
            size(snapshot.size_bytes),
            word(resources_pb2.Format, snapshot.format),
            len(snapshot.segments),
            snapshot.epoch or "-",
            snapshot.session_id or "-",
        )
        for snapshot in found
    ]
    session.out.table(titles, rows)


@app.command()
@connected
def show(
    session: Session,
    agent: AgentId,
    generation: Annotated[
        int, typer.Argument(min=0, help="Its number; 0 is the newest.")
    ] = 0,
) -> None:
    """Show one generation.

    Example: townkeeper snapshots show mayor 12 --json
    """
    name = _name(session.agent(agent), generation)
    request = snapshots_pb2.GetSnapshotRequest(name=str(name))
    answer = session.snapshots().GetSnapshot(request)
    snapshot = answer.snapshot
    if session.out.as_json:
        session.out.json(plain(answer))
        return
    session.out.facts(
        name=snapshot.name,
        saved=moment(snapshot.create_time),
        size=f"{size(snapshot.size_bytes)} ({snapshot.size_bytes} bytes)",
        format=word(resources_pb2.Format, snapshot.format),
        pages=snapshot.page_count,
        segments=len(snapshot.segments),
        stored=size(sum(segment.size_bytes for segment in snapshot.segments)),
        fingerprint=snapshot.fingerprint.hex(),
        runtime=f"{snapshot.runtime} {snapshot.runtime_version}".strip(),
        session=snapshot.session_id,
        epoch=snapshot.epoch,
        instance=snapshot.instance,
    )


@app.command()
@connected
def export(
    session: Session,
    agent: AgentId,
    file: Annotated[Path, typer.Argument(help="Where to write.", show_default=False)],
    generation: Annotated[
        int, typer.Option(min=0, help="Which one; 0 is the newest.")
    ] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace the file.")] = False,
) -> None:
    """Write a saved state to a file: a plain SQLite database that anyone can open.

    Example: townkeeper snapshots export mayor mayor.db
    """
    from services.cli.export import write_file

    name = _name(session.agent(agent), generation)
    request = snapshots_pb2.DownloadSnapshotRequest(
        name=str(name), content=snapshots_pb2.DownloadSnapshotRequest.CONTENT_FILE
    )
    frames = session.snapshots().DownloadSnapshot(request)
    with session.out.working(f"writing {file}"):
        size_bytes = write_file(frames, file, force=force)
    if session.out.as_json:
        session.out.json({"file": str(file), "sizeBytes": size_bytes})
    else:
        session.out.line(f"wrote {file} ({size(size_bytes)})")


@app.command()
@connected
def restore(
    session: Session,
    agent: AgentId,
    generation: Annotated[int, typer.Argument(min=1, show_default=False)],
) -> None:
    """Put an older generation in place; what it replaces is saved first.

    The agent is stopped for it and started again if it ran.

    Example: townkeeper snapshots restore mayor 12
    """
    agent_name = session.agent(agent)
    request = supervisor_pb2.RestoreAgentRequest(
        name=str(_name(agent_name, generation))
    )
    stub = session.supervisor_of(agent_name)
    with session.out.working(f"restoring generation {generation}"):
        answer = stub.RestoreAgent(request, timeout=RESTORE_S)
    if session.out.as_json:
        session.out.json(plain(answer))
        return
    replaced = answer.replaced_generation or "nothing"
    session.out.line(
        f"restored {generation} as generation {answer.generation}; what was there is "
        f"kept as {replaced}"
    )


def _name(agent: AgentName, generation: int) -> SnapshotName:
    return checked(lambda: SnapshotName(agent.town, agent.agent, generation))
