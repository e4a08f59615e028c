"""`townkeeper snapshots`: the saved states of an agent."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final

import typer

from services.cli import snapshot_edits, timeline
from services.cli.connection import Session, connected
from services.cli.output import moment, plain, size, word
from services.cli.restore_plan import show_plan
from services.cli.snapshot_import import import_file
from services.cli.snapshot_names import AgentId, At, named, utc
from townkeeper.snapshots.v1 import resources_pb2, snapshots_pb2
from townkeeper.supervisor.v1 import supervisor_pb2

app: Final = typer.Typer(no_args_is_help=True, help="See and use saved states.")

RESTORE_S: Final = 900.0


@app.command("list")
@connected
def list_snapshots(
    session: Session,
    agent: AgentId,
    limit: Annotated[int, typer.Option(min=1, help="Most to list.")] = 50,
    deleted: Annotated[
        bool, typer.Option("--deleted", help="Those that can be undeleted as well.")
    ] = False,
    time_line: Annotated[
        bool, typer.Option("--time-line", help="By day and hour, with what stands out.")
    ] = False,
) -> None:
    """List the generations of an agent, newest first.

    Example: townkeeper snapshots list mayor --time-line --limit 500
    """
    name = session.agent(agent)
    request = snapshots_pb2.ListSnapshotsRequest(parent=str(name), show_deleted=deleted)
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
    if time_line:
        for line in timeline.lines(found):
            session.out.line(line)
        return
    titles = ("GENERATION", "SAVED", "SIZE", "SEGMENTS", "EPOCH", "SESSION", "MARKS")
    rows = [
        (
            snapshot.generation,
            moment(snapshot.create_time),
            size(snapshot.size_bytes),
            len(snapshot.segments),
            snapshot.epoch or "-",
            snapshot.session_id or "-",
            timeline.marks(snapshot),
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
    at: At = None,
) -> None:
    """Show one generation.

    Example: townkeeper snapshots show mayor --at 2026-01-31T12:00:00
    """
    name = named(session.agent(agent), generation)
    request = snapshots_pb2.GetSnapshotRequest(name=str(name), read_time=utc(at))
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
        marks=timeline.marks(snapshot),
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
    at: At = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file.")] = False,
) -> None:
    """Write a saved state to a file: a plain SQLite database that anyone can open.

    Example: townkeeper snapshots export mayor mayor.db
    """
    from services.cli.export import write_file

    name = named(session.agent(agent), generation)
    request = snapshots_pb2.DownloadSnapshotRequest(
        name=str(name),
        content=snapshots_pb2.DownloadSnapshotRequest.CONTENT_FILE,
        read_time=utc(at),
    )

    def frames() -> Iterator[snapshots_pb2.DownloadSnapshotResponse]:
        # Asked for only once the file is known to be free.
        yield from session.snapshots().DownloadSnapshot(request)

    with session.out.working(f"writing {file}"):
        size_bytes = write_file(frames(), file, force=force)
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
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be read, and stop.")
    ] = False,
) -> None:
    """Put an older generation in place; what it replaces is saved first.

    The agent is stopped for it and started again if it ran.

    Example: townkeeper snapshots restore mayor 12 --dry-run
    """
    agent_name = session.agent(agent)
    if dry_run:
        show_plan(session, named(agent_name, generation))
        return
    request = supervisor_pb2.RestoreAgentRequest(
        name=str(named(agent_name, generation))
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


@app.command()
@connected
def verify(
    session: Session,
    agent: AgentId,
    generation: Annotated[
        int, typer.Argument(min=0, help="Its number; 0 is the newest.")
    ] = 0,
) -> None:
    """Read a generation whole and check it as a restore would.

    Example: townkeeper snapshots verify mayor 12
    """
    name = named(session.agent(agent), generation)
    request = snapshots_pb2.VerifySnapshotRequest(name=str(name))
    with session.out.working(f"verifying {name}"):
        answer = session.snapshots().VerifySnapshot(request, timeout=RESTORE_S)
    if session.out.as_json:
        session.out.json(plain(answer))
        return
    session.out.line(f"{name} is sound ({size(answer.read_bytes)} read)")


@app.command()
@connected
def fork(
    session: Session,
    agent: AgentId,
    target: Annotated[str, typer.Argument(help="The agent that gets it.")],
    generation: Annotated[
        int, typer.Option(min=0, help="Which one; 0 is the newest.")
    ] = 0,
) -> None:
    """Let another agent of the town, without a snapshot, begin where this one stood.

    No data is copied. Stop the other agent first.

    Example: townkeeper snapshots fork mayor mayor-2 --generation 12
    """
    source, stub = session.agent(agent), session.snapshots()
    if not generation:
        # A retry must not mean another one than the first try.
        newest = snapshots_pb2.GetSnapshotRequest(name=str(named(source, 0)))
        generation = stub.GetSnapshot(newest).snapshot.generation
    request = snapshots_pb2.ForkSnapshotRequest(
        name=str(named(source, generation)),
        target=str(session.agent(target)),
        request_id=str(uuid.uuid4()),
    )
    answer = stub.ForkSnapshot(request)
    if session.out.as_json:
        session.out.json(plain(answer))
        return
    session.out.line(f"forked generation {generation} as {answer.snapshot.name}")


app.command("import")(import_file)
for command in (
    snapshot_edits.label,
    snapshot_edits.hold,
    snapshot_edits.release,
    snapshot_edits.delete,
    snapshot_edits.undelete,
    snapshot_edits.reindex,
):
    app.command()(command)
