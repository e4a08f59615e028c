"""`townkeeper snapshots`: what is said about saved states, and which there are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from services.cli.connection import Session, connected
from services.cli.output import moment, plain
from services.cli.problems import Exit, Problem
from services.cli.snapshot_names import AgentId, Generation, named, newest_of
from townkeeper.snapshots.v1 import resources_pb2, snapshots_pb2


@connected
def label(
    session: Session,
    agent: AgentId,
    generation: Generation,
    labels: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="To set.", show_default=False),
    ] = None,
    remove: Annotated[
        list[str] | None, typer.Option(help="A key to take off; may be repeated.")
    ] = None,
) -> None:
    """Label a generation, so that it is found again. Labels do not keep it: see `hold`.

    Example: townkeeper snapshots label mayor 12 "before=the move" --remove todo
    """
    given = _pairs(labels or ())
    if not given and not remove:
        raise Problem(
            "cannot label with nothing: give KEY=VALUE, or --remove", Exit.USAGE
        )
    name = named(session.agent(agent), generation)
    request = snapshots_pb2.GetSnapshotRequest(name=str(name))
    found = session.snapshots().GetSnapshot(request).snapshot
    kept = {k: v for k, v in found.labels.items() if k not in (remove or ())}
    # The etag: what somebody else has labelled meanwhile is not taken off.
    changed = resources_pb2.Snapshot(
        name=found.name, labels=kept | given, etag=found.etag
    )
    _update(session, changed, "labels")


@connected
def hold(session: Session, agent: AgentId, generation: Generation) -> None:
    """Keep a generation until it is released: nothing drops or deletes it.

    It takes room for as long as it is held.

    Example: townkeeper snapshots hold mayor 12
    """
    name = newest_of(session, session.agent(agent), generation)
    _update(session, resources_pb2.Snapshot(name=name, hold=True), "hold")


@connected
def release(session: Session, agent: AgentId, generation: Generation) -> None:
    """End a hold. The generation is dropped when its age says so.

    Example: townkeeper snapshots release mayor 12
    """
    name = newest_of(session, session.agent(agent), generation)
    _update(session, resources_pb2.Snapshot(name=name, hold=False), "hold")


@connected
def delete(
    session: Session,
    agent: AgentId,
    generation: Annotated[
        int, typer.Argument(min=0, help="Its number; 0 for all of them, for good.")
    ],
    purge: Annotated[
        bool, typer.Option("--purge", help="At once and for good.")
    ] = False,
    epoch: Annotated[
        int | None,
        typer.Option(min=0, help="For all, needed once a supervisor owned the agent."),
    ] = None,
) -> None:
    """Delete a generation other than the newest: it can be undeleted for a week.

    With --purge, and all of them, it cannot be undone.

    Example: townkeeper snapshots delete mayor 12
    """
    agent_name, stub = session.agent(agent), session.snapshots()
    name = f"{agent_name}/snapshots/-"
    if generation:
        name = str(named(agent_name, generation))
        if epoch is None:
            # One that is not the head is nobody's to fence.
            request = snapshots_pb2.GetSnapshotRequest(name=name)
            epoch = stub.GetSnapshot(request).epoch
    answer = stub.DeleteSnapshot(
        snapshots_pb2.DeleteSnapshotRequest(name=name, epoch=epoch, purge=purge)
    )
    if session.out.as_json:
        session.out.json(plain(answer))
    elif answer.HasField("snapshot"):
        session.out.line(
            f"deleted {name}; until {moment(answer.snapshot.purge_time)} "
            f"`townkeeper snapshots undelete {agent} {generation}` brings it back"
        )
    else:
        session.out.line(f"deleted {answer.deleted_count} of {agent_name} for good")


@connected
def undelete(
    session: Session,
    agent: AgentId,
    generation: Annotated[int, typer.Argument(min=1, show_default=False)],
) -> None:
    """Bring a deleted generation back. `list --deleted` shows which there are.

    Example: townkeeper snapshots undelete mayor 12
    """
    request = snapshots_pb2.UndeleteSnapshotRequest(
        name=str(named(session.agent(agent), generation))
    )
    answer = session.snapshots().UndeleteSnapshot(request)
    if session.out.as_json:
        session.out.json(plain(answer))
    else:
        session.out.line(f"{answer.snapshot.name} is back")


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


def _update(session: Session, changed: resources_pb2.Snapshot, path: str) -> None:
    request = snapshots_pb2.UpdateSnapshotRequest(snapshot=changed)
    request.update_mask.paths.append(path)
    answer = session.snapshots().UpdateSnapshot(request)
    if session.out.as_json:
        session.out.json(plain(answer))
        return
    held = "held" if answer.snapshot.hold else "not held"
    labels = (f"{key}={value}" for key, value in sorted(answer.snapshot.labels.items()))
    session.out.line(f"{answer.snapshot.name}: {', '.join((held, *labels))}")


def _pairs(given: Sequence[str]) -> dict[str, str]:
    found = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise Problem(f"cannot use {text!r} as a label: give KEY=VALUE", Exit.USAGE)
        found[key] = value
    return found
