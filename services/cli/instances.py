"""`townkeeper instances`: the supervisors of a town."""

from __future__ import annotations

from typing import Final

import typer

from services.cli.connection import Session, connected
from services.cli.output import moment, plain, word
from townkeeper.registry.v1 import registry_pb2, resources_pb2

app: Final = typer.Typer(no_args_is_help=True, help="See the supervisors of a town.")


@app.callback()
def _group() -> None:
    """Keeps `list` a command of its own while it is the only one."""


@app.command("list")
@connected
def list_instances(session: Session) -> None:
    """List the instances of a town, expired ones of the last hour included.

    Example: townkeeper instances list --json
    """
    request = registry_pb2.ListInstancesRequest(parent=f"towns/{session.town}")
    found = session.registry().ListInstances(request).instances
    if session.out.as_json:
        session.out.json([plain(instance) for instance in found])
        return
    rows = [
        (
            instance.name.rpartition("/")[2],
            word(resources_pb2.Instance.State, instance.state),
            instance.address,
            instance.lease_count,
            moment(instance.register_time),
        )
        for instance in found
    ]
    session.out.table(("INSTANCE", "STATE", "ADDRESS", "AGENTS", "SINCE"), rows)
