"""`townkeeper keys`: the keys that sign tokens, and how they are replaced."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from services.cli.layout import DEFAULT, DataDir
from services.cli.output import Output
from services.cli.problems import Exit, Problem
from services.cli.tokens import seconds

if TYPE_CHECKING:
    from services.chassis.keys import KeyRing

app: Final = typer.Typer(no_args_is_help=True, help="See and replace signing keys.")

DataDirOption = Annotated[
    Path, typer.Option("--data-dir", help="The directory of `townkeeper up`.")
]
KeysDirOption = Annotated[
    Path | None,
    typer.Option("--keys-dir", help="A folder of keys elsewhere.", show_default=False),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list")
def list_keys(
    data_dir: DataDirOption = DEFAULT,
    keys_dir: KeysDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the keys: which one signs, and how long the others are needed.

    Example: townkeeper keys list --json
    """
    with _problems():
        infos = _ring(data_dir, keys_dir).infos()
    out = Output(as_json)
    if as_json:
        out.json(
            [
                {
                    "kid": info.kid,
                    "state": info.state.value,
                    "signsFrom": _moment(info.signs_from),
                    "neededUntil": _moment(info.needed_until),
                }
                for info in infos
            ]
        )
        return
    rows = [
        (i.kid, i.state.value, _moment(i.signs_from), _moment(i.needed_until))
        for i in infos
    ]
    out.table(("KEY", "STATE", "SIGNS FROM", "NEEDED UNTIL"), rows)


@app.command()
def rotate(
    now: Annotated[
        bool,
        typer.Option(
            "--now", help="Sign with it at once: every service reads this folder."
        ),
    ] = False,
    lead: Annotated[
        str | None,
        typer.Option(
            help="How long services have to learn it: 15m, 1h. [default: 15m]",
            show_default=False,
        ),
    ] = None,
    sealing: Annotated[
        bool,
        typer.Option(
            "--sealing", help="A key that seals what the registry keeps, instead."
        ),
    ] = False,
    data_dir: DataDirOption = DEFAULT,
    keys_dir: KeysDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Publish a new key, which signs once all services have had time to learn it.

    With --now it signs at once, and so does one that is published already. Tokens of
    older keys stay good until they expire; `townkeeper keys prune` removes the keys
    after that. A folder without keys gets its first one. Old sealing keys are kept:
    what nobody has written since is opened with them.

    Example: townkeeper keys rotate --lead 30m
    """
    from services.chassis.keys import LEAD_S, KeyRing
    from services.chassis.sealing import rotate_sealing

    if now and lead:
        raise Problem("cannot rotate now and later: give --now or --lead", Exit.USAGE)
    lead_s = 0.0 if now else LEAD_S if lead is None else seconds(lead, "--lead")
    folder = _folder(data_dir, keys_dir)
    if sealing:
        with _problems():
            kid = rotate_sealing(folder, lead_s)
        typer.echo(json.dumps({"kid": kid}) if as_json else f"{kid} is published")
        return
    with _problems():
        had_keys = folder.is_dir() and any(folder.glob("*.pem"))
        ring = KeyRing.create(folder)
        if had_keys:
            ring = ring.rotate(lead_s)
        info = ring.infos()[-1]
    signs_from = _moment(info.signs_from)
    if as_json:
        found = {"kid": info.kid, "state": info.state.value, "signsFrom": signs_from}
        typer.echo(json.dumps(found))
    elif info.kid == ring.kid:
        typer.echo(f"{info.kid} signs now")
    else:
        typer.echo(f"{info.kid} is published and signs from {signs_from}")


@app.command()
def prune(
    all_old: Annotated[
        bool,
        typer.Option(
            "--all", help="Also those whose tokens still live: they stop working."
        ),
    ] = False,
    data_dir: DataDirOption = DEFAULT,
    keys_dir: KeysDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove the keys whose last token has expired.

    Example: townkeeper keys prune
    """
    with _problems():
        gone = _ring(data_dir, keys_dir).prune(all_old=all_old)
    if as_json:
        typer.echo(json.dumps({"removed": gone}))
    for kid in () if as_json else gone:
        typer.echo(f"removed {kid}")


@app.command()
def jwks(data_dir: DataDirOption = DEFAULT, keys_dir: KeysDirOption = None) -> None:
    """Print the public keys as a JSON Web Key Set, for services that read a file.

    Example: townkeeper keys jwks > jwks.json
    """
    with _problems():
        typer.echo(json.dumps(_ring(data_dir, keys_dir).jwks()))


def _folder(data_dir: Path, keys_dir: Path | None) -> Path:
    return keys_dir or DataDir.at(data_dir).keys


def _ring(data_dir: Path, keys_dir: Path | None) -> KeyRing:
    from services.chassis.keys import KeyRing

    return KeyRing.load(_folder(data_dir, keys_dir))


@contextlib.contextmanager
def _problems() -> Iterator[None]:
    from services.chassis.keys import KeysError

    try:
        yield
    except KeysError as error:
        raise Problem(str(error)) from error
    except OSError as error:
        raise Problem(f"cannot use the keys: {error.strerror or error}") from error


def _moment(when: datetime | None) -> str:
    return f"{when:%Y-%m-%dT%H:%M:%SZ}" if when is not None else ""
