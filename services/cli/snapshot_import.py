"""`townkeeper snapshots import`: a file becomes an agent's next generation."""

from __future__ import annotations

import sqlite3
import uuid
import zlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Annotated, BinaryIO, Final

import typer
from blake3 import blake3
from google.protobuf.duration_pb2 import Duration

from services.chassis.errors import Reason, ServiceError, rpc_errors
from services.chassis.names import AgentName
from services.cli.connection import Session, connected
from services.cli.output import plain, size
from services.cli.problems import Exit, Problem
from services.cli.snapshot_names import AgentId
from townkeeper.registry.v1 import registry_pb2
from townkeeper.snapshots.v1 import resources_pb2, snapshots_pb2
from townkeeper.supervisor.v1 import supervisor_pb2

# A frame: a quarter of gRPC's default message limit.
CHUNK_BYTES: Final = 1 << 20
UPLOAD_S: Final = 3600.0
STOP_S: Final = 310.0
START_S: Final = 600.0
_GRACE_S: Final = 10
# Who owns the agent may change once between the look and the upload, not for ever.
_TRIES: Final = 3

Frame = snapshots_pb2.UploadSnapshotRequest


@connected
def import_file(
    session: Session,
    file: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, show_default=False)
    ],
    agent: AgentId,
    stop: Annotated[
        bool, typer.Option("--stop", help="Stop the agent for it, then start it again.")
    ] = False,
    opaque: Annotated[
        bool, typer.Option("--opaque", help="Take bytes that are no database.")
    ] = False,
) -> None:
    """Make a SQLite file the next generation of an agent; its next start finds it.

    What was there stays in the history. The session goes on under the id that the
    newest generation has. From --opaque bytes no run ever starts.

    Example: townkeeper snapshots import mayor.db mayor --stop
    """
    if not opaque:
        check_database(file)
    name = session.agent(agent)
    runs = _lease_is_live(session, name)
    if runs and not stop:
        raise Problem(
            f"cannot import into {name}, it runs and would not see it: stop it first "
            f"(townkeeper agents stop {agent}), or give --stop",
            Exit.REFUSED,
        )
    try:
        if runs:
            _stop(session, name)
        with session.out.working(f"importing {file}"):
            saved = _import(session, file, name)
    finally:
        if runs:
            _start(session, name)
    if session.out.as_json:
        session.out.json(plain(saved))
    else:
        session.out.line(
            f"imported {file} ({size(saved.size_bytes)}) as generation "
            f"{saved.generation} of {name}"
        )


def check_database(file: Path) -> None:
    """A whole, sound SQLite database; or a Problem that says what to do."""
    log = file.with_name(f"{file.name}-wal")
    if log.exists() and log.stat().st_size:
        raise Problem(
            f"cannot import {file}, its last changes lie in {log.name}: close the "
            "program that uses it, or make a copy with `sqlite3 FILE '.backup COPY'`"
        )
    uri = f"{file.absolute().as_uri()}?mode=ro&immutable=1"
    try:
        with closing(sqlite3.connect(uri, uri=True)) as database:
            [found] = database.execute("pragma integrity_check(1)").fetchone()
            empty = not database.execute("pragma page_count").fetchone()[0]
    except sqlite3.DatabaseError as error:
        raise _no_database(file, str(error)) from error
    if found != "ok" or empty:
        raise _no_database(file, "it is empty" if empty else str(found))


def _no_database(file: Path, why: str) -> Problem:
    return Problem(
        f"cannot import {file}, it is no sound SQLite database ({why}): give another "
        "file, or --opaque to keep bytes that no run starts from",
        Exit.USAGE,
    )


def _import(session: Session, file: Path, name: AgentName) -> resources_pb2.Snapshot:
    """Under the highest epoch: whoever claims the agent meanwhile makes it fail."""
    head, epoch = _newest(session, name)
    for _ in range(_TRIES):
        # After the epoch: a claim that this does not see has raised it since.
        if _lease_is_live(session, name):
            break
        header = snapshots_pb2.UploadHeader(
            parent=str(name),
            upload_id=str(uuid.uuid4()),
            body=snapshots_pb2.UploadHeader.BODY_FILE,
            epoch=epoch or None,
            if_generation_match=head.generation,
            runtime=head.runtime,
            runtime_version=head.runtime_version,
            session_id=head.session_id,
        )
        try:
            with rpc_errors(), file.open("rb") as source:
                answer = session.snapshots().UploadSnapshot(
                    _frames(header, source), timeout=UPLOAD_S
                )
            return answer.snapshot
        except ServiceError as error:
            seen = int(error.metadata.get("epoch", 0))
            if error.reason is not Reason.LEASE_FENCED or seen == epoch:
                raise
            epoch = seen
    raise Problem(
        f"cannot import into {name}: somebody started it at that moment; stop it, then "
        "import again",
        Exit.REFUSED,
    )


def _newest(session: Session, name: AgentName) -> tuple[resources_pb2.Snapshot, int]:
    """The head, empty if there is none, and the epoch that was seen with it."""
    request = snapshots_pb2.GetSnapshotRequest(name=f"{name}/snapshots/latest")
    try:
        with rpc_errors():
            answer = session.snapshots().GetSnapshot(request)
    except ServiceError as error:
        if error.reason is not Reason.SNAPSHOT_NOT_FOUND:
            raise
        return resources_pb2.Snapshot(), 0
    return answer.snapshot, answer.epoch


def _frames(header: snapshots_pb2.UploadHeader, source: BinaryIO) -> Iterator[Frame]:
    yield Frame(header=header)
    digest, offset = blake3(), 0
    while data := source.read(CHUNK_BYTES):
        digest.update(data)
        yield Frame(
            chunk=snapshots_pb2.Chunk(offset=offset, data=data, crc32=zlib.crc32(data))
        )
        offset += len(data)
    yield Frame(
        trailer=snapshots_pb2.UploadTrailer(size_bytes=offset, blake3=digest.digest())
    )


def _lease_is_live(session: Session, name: AgentName) -> bool:
    """Whether an instance has it; one that the registry does not know nobody has."""
    request = registry_pb2.GetAgentRequest(name=str(name))
    try:
        with rpc_errors():
            agent = session.registry().GetAgent(request).agent
    except ServiceError as error:
        if error.reason is not Reason.AGENT_NOT_FOUND:
            raise
        return False
    return agent.lease.live


def _stop(session: Session, name: AgentName) -> None:
    request = supervisor_pb2.StopAgentRequest(
        name=str(name), grace=Duration(seconds=_GRACE_S)
    )
    with session.out.working(f"stopping and saving {name.agent}"):
        session.supervisor_of(name).StopAgent(request, timeout=STOP_S)


def _start(session: Session, name: AgentName) -> None:
    request = supervisor_pb2.StartAgentRequest(
        name=str(name), request_id=str(uuid.uuid4())
    )
    with session.out.working(f"starting {name.agent}"):
        session.supervisor_of(name).StartAgent(request, timeout=START_S)
