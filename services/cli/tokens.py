"""`townkeeper token`: credentials, signed with the keys of a data directory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Final

import typer

from services.chassis.access import Kind
from services.cli.layout import DEFAULT, DataDir
from services.cli.problems import Exit, Problem

app: Final = typer.Typer(no_args_is_help=True, help="Mint and revoke credentials.")


@app.command()
def mint(
    kind: Annotated[Kind, typer.Option(help="What the holder is.", show_default=False)],
    town: Annotated[str, typer.Option(help="The town it is for.", show_default=False)],
    rig: Annotated[str | None, typer.Option(help="Rig of the agent.")] = None,
    agent: Annotated[str | None, typer.Option(help="The one agent it is for.")] = None,
    user: Annotated[str | None, typer.Option(help="Id of the user.")] = None,
    ttl: Annotated[str, typer.Option(help="Its life: 90s, 8h, 30d.")] = "8h",
    data_dir: Annotated[
        Path, typer.Option(help="The directory of `townkeeper up`.")
    ] = DEFAULT,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Mint a token and print it, and nothing else.

    A container token is for a supervisor, an agent token (with --rig and --agent) for
    one agent's process, a user token for people's clients, an operator token for all,
    a service token (with --town '*') for services to learn what was revoked.

    Example: export TOWNKEEPER_TOKEN=$(townkeeper token mint --kind user --town town)
    """
    ttl_s = seconds(ttl, "--ttl")
    _check_combination(kind, rig, agent, user)
    data = DataDir.at(data_dir)
    token = mint_from(data, kind, town, rig=rig, agent=agent, user=user, ttl_s=ttl_s)
    typer.echo(json.dumps({"token": token, "ttlSeconds": ttl_s}) if as_json else token)


def mint_from(
    data: DataDir,
    kind: Kind,
    town: str,
    *,
    rig: str | None = None,
    agent: str | None = None,
    user: str | None = None,
    ttl_s: float,
) -> str:
    """A token signed with the directory's newest key."""
    from services.chassis.errors import ServiceError
    from services.chassis.keys import KeyRing, KeysError

    if kind is Kind.USER:
        user = user or "local"
    try:
        ring = KeyRing.load(data.keys)
        return ring.mint(kind, town=town, rig=rig, agent=agent, user=user, ttl_s=ttl_s)
    except KeysError as error:
        if any(data.keys.glob("*.pem")):
            raise Problem(str(error)) from error
        raise Problem(
            f"cannot mint: {data.keys} holds no keys; start `townkeeper up` on that "
            "directory first, or name another --data-dir"
        ) from error
    except OSError as error:
        raise Problem(
            f"cannot read the keys in {data.keys}: {error.strerror}"
        ) from error
    except ServiceError as error:
        raise Problem(error.message, Exit.USAGE) from error


def _check_combination(
    kind: Kind, rig: str | None, agent: str | None, user: str | None
) -> None:
    if kind is Kind.AGENT and not (rig and agent):
        raise _usage("cannot mint an agent token: give --rig and --agent")
    if kind is not Kind.AGENT and (rig or agent):
        raise _usage(f"cannot mint {kind} tokens with --rig or --agent: leave them out")
    if kind is not Kind.USER and user:
        raise _usage(f"cannot mint {kind} tokens with --user: leave it out")


def _usage(message: str) -> Problem:
    return Problem(message, Exit.USAGE)


def seconds(text: str, option: str) -> float:
    """A duration like `8h`, or a usage error that names the option."""
    from services.chassis.parsers import duration

    try:
        return duration(text)
    except ValueError as error:
        raise _usage(f"cannot use {option} {text!r}: it {error}") from error
