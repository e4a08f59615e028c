"""`townkeeper token revoke`: makes tokens worthless before they expire."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final

import jwt
import typer

from services.chassis.access import ANY_TOWN, EVERY_TOWN
from services.chassis.auth import id_of_unnamed
from services.chassis.names import RunName, TownName
from services.cli.connection import Session, checked, connected
from services.cli.output import plain
from services.cli.problems import Exit, Problem
from services.cli.tokens import seconds
from townkeeper.registry.v1 import registry_pb2

_STDIN: Final = "-"


@dataclass(frozen=True, slots=True)
class _Token:
    """One token to revoke; of a bare id neither town nor expiry is known."""

    id: str
    towns: frozenset[str] = frozenset()
    expires: datetime | None = None


@connected
def revoke(
    session: Session,
    tokens: Annotated[
        list[str] | None,
        typer.Argument(
            help="Tokens, or ids of tokens (`jti`); - reads them from standard input.",
            show_default=False,
        ),
    ] = None,
    run: Annotated[
        list[str] | None,
        typer.Option(help="A run of an agent, as AGENT/RUN: its tokens."),
    ] = None,
    every: Annotated[
        bool,
        typer.Option(
            "--all", help="All tokens of the town that were issued until now."
        ),
    ] = False,
    life: Annotated[
        str | None,
        typer.Option(
            help="How long bare ids can live yet: 8h, 30d. Else as long as any token.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Revoke tokens: every service refuses them within five seconds.

    A token that is given whole says itself how long that must be remembered. With --all
    the supervisors of the town need new tokens too; operators' stay good.

    Example: townkeeper token revoke 4d1c0a8e7b2f4c569a3e1f2d3c4b5a69 --life 8h
    """
    found = [_read(text) for text in _given(tokens or [])]
    if every == bool(found or run):
        raise Problem(
            "cannot tell what to revoke: give tokens, --run, or just --all", Exit.USAGE
        )
    registry = session.registry()
    for parent, (ids, runs) in _lists(session, found, run or [], every=every).items():
        request = registry_pb2.RevokeTokensRequest(
            parent=parent,
            token_ids=[token.id for token in ids],
            runs=runs,
        )
        expires = _last_expiry(ids, life, runs=bool(runs))
        if expires is not None and not every:
            request.expire_time.FromDatetime(expires)
        answer = registry.RevokeTokens(request)
        if session.out.as_json:
            session.out.json(plain(answer))
        elif every:
            what = f"all tokens of {parent} that were issued until now"
            session.out.line(f"revoked {what}")
        else:
            session.out.line(f"revoked {len(ids) + len(runs)} of {parent}")


def _given(words: list[str]) -> list[str]:
    read = sys.stdin.read().split() if _STDIN in words else []
    return [word for word in words if word != _STDIN] + read


def _read(text: str) -> _Token:
    if text.count(".") != 2:
        return _Token(text)
    try:
        claims = jwt.decode(text, options={"verify_signature": False})
        town = claims.get("townId")
        towns = [town] if town else claims.get("towns", [])
        expires = datetime.fromtimestamp(claims["exp"], UTC)
        # What it was renewed from goes with it, and whatever else that became.
        id = claims.get("family") or claims.get("jti") or id_of_unnamed(text)
        return _Token(str(id), frozenset(towns), expires)
    except (jwt.InvalidTokenError, KeyError, TypeError, ValueError) as error:
        raise Problem(
            "cannot read a token that was given: give it whole, or its id", Exit.USAGE
        ) from error


def _lists(
    session: Session, tokens: list[_Token], runs: list[str], *, every: bool
) -> dict[str, tuple[list[_Token], list[str]]]:
    """What goes on which town's list: on another's it would have no effect."""
    if every:
        return {f"towns/{session.town}": ([], [])}
    lists: dict[str, tuple[list[_Token], list[str]]] = {}
    for token in tokens:
        lists.setdefault(_parent(session, token), ([], []))[0].append(token)
    for given in runs:
        run = _run(session, given)
        lists.setdefault(f"towns/{run.town}", ([], []))[1].append(str(run))
    return lists


def _parent(session: Session, token: _Token) -> str:
    """The list that a token belongs on: that of a town of its own, or the one of all;
    of a bare id nothing is known."""
    if ANY_TOWN in token.towns:
        return EVERY_TOWN
    if not token.towns:
        return f"towns/{session.town}"
    named = session.options.town
    return str(TownName(named if named in token.towns else min(token.towns)))


def _run(session: Session, given: str) -> RunName:
    if given.startswith("towns/"):
        return checked(lambda: RunName.parse(given))
    agent, _, run = given.partition("/")
    return checked(lambda: RunName(session.town, agent, run))


def _last_expiry(
    tokens: list[_Token], life: str | None, *, runs: bool
) -> datetime | None:
    """When the last of them expires; None where nobody can tell."""
    known = [token.expires for token in tokens if token.expires is not None]
    if len(known) == len(tokens) and not runs:
        return max(known, default=None)
    if life is None:
        return None
    return max([datetime.now(UTC) + timedelta(seconds=seconds(life, "--life")), *known])
