"""`townkeeper demo`: a real agent survives the death of its container."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from services.cli.layout import DataDir
from services.cli.problems import Exit, Problem

if TYPE_CHECKING:
    from services.cli.demo_story import Outcome
    from services.cli.narrator import Narrator

# OpenAI's own form of API, as these providers speak it.
_BASE_URLS: Final = {
    "anthropic": "https://api.anthropic.com/v1",
    "deepseek": "https://api.deepseek.com/v1",
    "groq": "https://api.groq.com/openai/v1",
    "mistral": "https://api.mistral.ai/v1",
    "openai": "https://api.openai.com/v1",
    "openrouter": "https://openrouter.ai/api/v1",
}
_KEY: Final = "TOWNKEEPER_MODEL_KEY"


@dataclass(frozen=True, slots=True)
class RealModel:
    """A model that somebody pays for."""

    name: str  # provider/model
    base_url: str
    key: str


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


def real_model(
    name: str | None, base_url: str | None, environ: Mapping[str, str]
) -> RealModel | None:
    """The model that is meant, with its address and key; None means the stand-in."""
    if name is None:
        if base_url is not None:
            raise _usage("cannot use --base-url alone: give --model too")
        return None
    provider, slash, rest = name.partition("/")
    if not (provider and slash and rest):
        raise _usage(f"cannot use --model {name!r}: write provider/model")
    address = base_url or _BASE_URLS.get(provider)
    if address is None:
        raise _usage(f"cannot tell where {provider} answers: give --base-url")
    own_key = f"{provider.upper().replace('-', '_')}_API_KEY"
    key = environ.get(_KEY) or environ.get(own_key)
    if not key:
        raise _usage(f"cannot use {name} without a key: set {own_key} or {_KEY}")
    return RealModel(name, address, key)


def _usage(message: str) -> Problem:
    return Problem(message, Exit.USAGE)


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
