"""`townkeeper serve`: one service in this process, configured by its environment."""

from __future__ import annotations

import os
from enum import StrEnum
from typing import Annotated

import typer

from services.cli.programs import service_command


class Service(StrEnum):
    """The services that can be run alone."""

    REGISTRY = "registry"
    SNAPSHOTS = "snapshots"
    SUPERVISOR = "supervisor"
    GATEWAY = "gateway"


def serve(
    service: Annotated[Service, typer.Argument(help="Which one.", show_default=False)],
) -> None:
    """Run one service, configured by environment variables.

    It prints `ready grpc://HOST:PORT` (the gateway `ready http://…`) when it serves.
    What each one reads stands in docs/operations.md; a wrong or missing variable is
    named at once.

    Example: TOWNKEEPER_REDIS_URL=redis://127.0.0.1 townkeeper serve registry
    """
    command = service_command(service.value)
    # In place of this process: signals, exit code and pid are the service's own.
    os.execv(command[0], command)
