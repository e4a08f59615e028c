"""`townkeeper up`: the embedded plane, until SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from asyncio import Future
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from services.cli.embedded import running
from services.cli.layout import DEFAULT, DataDir, Endpoints, Marking
from services.cli.plane import Plane
from services.cli.problems import Exit, Problem
from services.cli.programs import Addresses
from services.cli.settings import embedded_settings


def up(
    data_dir: Annotated[
        Path, typer.Option(help="Where everything is kept; made if it is missing.")
    ] = DEFAULT,
    town: Annotated[str, typer.Option(help="The town this plane serves.")] = "town",
    host: Annotated[str, typer.Option(help="Where to listen.")] = "127.0.0.1",
    http_port: Annotated[int, typer.Option(min=0, max=65535)] = 8080,
    registry_port: Annotated[int, typer.Option(min=0, max=65535)] = 50051,
    snapshots_port: Annotated[int, typer.Option(min=0, max=65535)] = 50052,
    supervisor_port: Annotated[int, typer.Option(min=0, max=65535)] = 50053,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print all addresses as JSON when ready.")
    ] = False,
) -> None:
    """Run a whole town on this machine: Valkey and the four services.

    Prints `ready http://HOST:PORT` when all serve, and runs until Ctrl-C or SIGTERM:
    then agents are stopped and saved first. Started again on the same directory it
    carries on. Port 0 asks for a free one.

    Example: townkeeper up --data-dir ./data --town dev
    """
    data = DataDir.at(data_dir)
    marking = Marking(town_id(town), embedded_settings(os.environ).environment)
    addresses = Addresses(
        host, http_port, registry_port, snapshots_port, supervisor_port
    )

    def ready(endpoints: Endpoints) -> None:
        plain = f"ready {endpoints.http}"
        typer.echo(json.dumps(asdict(endpoints)) if as_json else plain)

    asyncio.run(_serve(data, marking, addresses, ready))


def town_id(text: str) -> str:
    """The town, or a usage error."""
    from services.chassis.errors import ServiceError
    from services.chassis.names import check_id

    try:
        return check_id(text, "town")
    except ServiceError as error:
        raise Problem(error.message, Exit.USAGE) from error


async def _serve(
    data: DataDir,
    marking: Marking,
    addresses: Addresses,
    ready: Callable[[Endpoints], None],
) -> None:
    """The first signal ends all in order, at any time; a second one kills."""
    stop, planes = asyncio.Event(), list[Plane]()

    async def serve() -> None:
        async with running(data, marking, addresses, notice) as embedded:
            planes.append(embedded.plane)
            ready(embedded.endpoints)
            await _first(stop, embedded.plane.failed)
            notice("stopping: agents are saved first")

    service = asyncio.create_task(serve(), name="up")

    def on_signal() -> None:
        if stop.is_set():
            for plane in planes:
                plane.cut()
        elif not planes:
            service.cancel()
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    with contextlib.suppress(asyncio.CancelledError):
        await service


async def _first(stop: asyncio.Event, failed: Future[None]) -> None:
    """Waits for either; raises what `failed` holds."""
    waiting: Future[Any] = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({waiting, failed}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
    if failed.done():
        failed.result()


def notice(text: str) -> None:
    """Progress, for people; scripts read standard output."""
    typer.echo(text, err=True)
