"""`townkeeper runtime`: the programs that agents run on."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated, Final

import typer

app: Final = typer.Typer(no_args_is_help=True, help="Install agent runtimes.")


class Runtime(StrEnum):
    """What can be installed."""

    KILO = "kilo"


@app.callback()
def _group() -> None:
    """Keeps `install` a command of its own while it is the only one."""


@app.command()
def install(
    runtime: Annotated[Runtime, typer.Argument(help="Which.", show_default=False)],
    version: Annotated[
        str | None, typer.Option(help="Which version; else the one that is tested.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Install the pinned runtime through npm; what is there already stays.

    Example: townkeeper runtime install kilo
    """
    from services.cli import runtimes

    def progress(text: str) -> None:
        typer.echo(text, err=True)

    assert runtime is Runtime.KILO, "the only one"
    version = version or runtimes.KILO.version
    path = runtimes.install_kilo(version, progress=progress)
    if as_json:
        typer.echo(
            json.dumps({"runtime": runtime, "version": version, "path": str(path)})
        )
    else:
        typer.echo(path)
