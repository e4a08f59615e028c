"""`townkeeper agents remove`: an agent goes with all that it saved."""

from __future__ import annotations

from collections.abc import Callable

from services.chassis.errors import Code, ServiceError, rpc_errors
from services.chassis.names import AgentName
from services.cli.connection import Session, connected
from services.cli.problems import Exit, Problem
from services.cli.snapshot_names import AgentId
from townkeeper.registry.v1 import registry_pb2
from townkeeper.snapshots.v1 import snapshots_pb2


@connected
def remove(session: Session, agent: AgentId) -> None:
    """Forget an agent that does not run: its record, its inbox, everything it saved.
    It cannot be undone.

    Example: townkeeper agents remove ada
    """
    name = session.agent(agent)
    _refuse_held(session, name)
    # First: it refuses while the agent runs, and then nothing is lost.
    request = registry_pb2.DeregisterAgentRequest(name=str(name))
    unknown = _unless_absent(lambda: session.registry().DeregisterAgent(request))
    deleted = _delete_snapshots(session, name)
    if unknown and not deleted:
        raise unknown
    if session.out.as_json:
        session.out.json({"name": str(name), "deletedCount": deleted})
    else:
        session.out.line(f"removed {name} and {deleted} generations")


def _refuse_held(session: Session, name: AgentName) -> None:
    """Before anything is gone: what is held would be left of an agent without name."""
    request = snapshots_pb2.ListSnapshotsRequest(parent=str(name), page_size=500)
    stub = session.snapshots()
    while True:
        page = stub.ListSnapshots(request)
        for one in page.snapshots:
            if one.hold:
                raise Problem(
                    f"cannot remove {name}, its generation {one.generation} is held: "
                    f"release it first (townkeeper snapshots release {name.agent} "
                    f"{one.generation})",
                    Exit.REFUSED,
                )
        request.page_token = page.next_page_token
        if not request.page_token:
            return


def _delete_snapshots(session: Session, name: AgentName) -> int:
    """How many generations there were."""
    stub, deleted = session.snapshots(), 0

    def delete() -> None:
        nonlocal deleted
        latest = snapshots_pb2.GetSnapshotRequest(name=f"{name}/snapshots/latest")
        request = snapshots_pb2.DeleteSnapshotRequest(
            name=f"{name}/snapshots/-", epoch=stub.GetSnapshot(latest).epoch
        )
        deleted = stub.DeleteSnapshot(request).deleted_count

    _unless_absent(delete)
    return deleted


def _unless_absent(step: Callable[[], object]) -> ServiceError | None:
    """A removal that was cut off is finished by asking for it again: what is gone
    already is no error, but the one that is returned."""
    try:
        with rpc_errors():
            step()
    except ServiceError as error:
        if error.code is not Code.NOT_FOUND:
            raise
        return error
    return None
