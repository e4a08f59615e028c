"""`townkeeper demo`: a real agent survives the death of its container."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from services.cli.layout import DataDir
from services.cli.problems import Exit, Problem
from services.cli.real_model import RealModel, real_model

if TYPE_CHECKING:
    from services.cli.demo_story import Outcome
    from services.cli.narrator import Narrator


def demo(
    data_dir: Annotated[
        Path | None,
        typer.Option(
            help="Where to keep everything; else a folder that is removed at the end.",
            show_default=False,
        ),
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the folder; say how to look around.")
    ] = False,
    model: Annotated[
        str | None,
        typer.Option(help="A real model, as provider/model; else a stand-in."),
    ] = None,
    base_url: Annotated[
        str | None,
        typer.Option(help="Where its OpenAI-like API answers, if that is unknown."),
    ] = None,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print the outcome as JSON, the story beside."),
    ] = False,
) -> None:
    """See a real Kilo agent survive the death of its container.

    Starts a plane, installs Kilo, holds a conversation, kills the container with
    SIGKILL, wipes its disk, boots a new one, and checks that nothing is missing.
    Without --model a small stand-in on loopback answers; the key of a real one is
    taken from TOWNKEEPER_MODEL_KEY or PROVIDER_API_KEY.

    Example: townkeeper demo --keep

    Example: townkeeper demo --model anthropic/claude-sonnet-4-5
    """
    from rich.console import Console

    from services.cli.narrator import Narrator

    real = real_model(model, base_url, os.environ)
    tell = Narrator(Console(stderr=as_json, highlight=False, soft_wrap=True))
    with _folder(data_dir, keep, tell) as root:
        outcome = asyncio.run(_cancellable(DataDir.at(root), real, tell))
    if as_json:
        typer.echo(json.dumps(asdict(outcome)))
    if outcome.wrong:
        said = "; ".join(outcome.wrong)
        raise Problem(f"cannot call this a success: {said}", Exit.FAILED)


@contextlib.contextmanager
def _folder(given: Path | None, keep: bool, tell: Narrator) -> Iterator[Path]:
    """The folder for everything; removed at the end unless somebody wants it."""
    if given is not None:
        yield given
    else:
        root = Path(tempfile.mkdtemp(prefix="townkeeper-demo-"))
        try:
            yield root / "data"
        finally:
            if not keep:
                shutil.rmtree(root, ignore_errors=True)
        given = root / "data"
    if keep:
        tell.note(f"everything is in {given}; to look around:")
        for command in (
            f"townkeeper up --data-dir {given} --town demo",
            f"townkeeper snapshots list mayor --data-dir {given}",
            f"townkeeper snapshots export mayor mayor.db --data-dir {given}",
        ):
            tell.note(f"  {command}")


async def _cancellable(
    data: DataDir, real: RealModel | None, tell: Narrator
) -> Outcome:
    """The demo; SIGTERM ends it as Ctrl-C does, with everything cleaned up."""
    from services.cli.demo_stage import perform

    task = asyncio.current_task()
    assert task is not None, "run by asyncio"
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await perform(data, real, tell)
