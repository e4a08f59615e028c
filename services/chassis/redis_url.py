"""The forms of `TOWNKEEPER_REDIS_URL`: one server, a cluster, Sentinels.

The errors complete a sentence that starts with the variable's name, and never repeat
what was given, which may hold a password.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qsl, unquote

from services.chassis.parsers import boolean, split_url

SENTINEL_PORT: Final = 26379
_SENTINEL_EXAMPLE: Final = "redis+sentinel://10.0.0.1:26379,10.0.0.2:26379/mymaster/0"
# Not by urlsplit: it takes all hosts for one.
_SENTINELS: Final = re.compile(
    r"(?P<tls>rediss?)\+sentinel://((?P<login>[^/?#]*)@)?(?P<hosts>[^/?#@]*)"
    r"(/(?P<service>[^/?#]*))?(/(?P<db>[^/?#]*))?(\?(?P<options>[^#]*))?",
    re.IGNORECASE,
)
_SENTINEL: Final = re.compile(
    r"(?P<host>[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])"
    r"(:(?P<port>[0-9]{1,5}))?"
)
# What Sentinel itself allows in a service's name.
_SERVICE: Final = re.compile(r"[A-Za-z0-9._-]+")


@dataclass(frozen=True, slots=True)
class Login:
    """A user of Redis; empty names the default one, or none."""

    username: str = ""
    password: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class SentinelUrl:
    """Whom to ask for the primary of which service, and how to speak to both."""

    sentinels: tuple[tuple[str, int], ...]
    service: str
    db: int
    tls: bool
    login: Login
    sentinel_login: Login


def redis_url(given: str) -> str:
    """`redis://`, `rediss://` or `unix://`; `?cluster=true` for a cluster;
    `redis+sentinel://` or `rediss+sentinel://` for Sentinels."""
    if asks_sentinels(given):
        sentinel_url(given)
        return given
    parts = split_url(given)
    if parts.scheme not in {"redis", "rediss", "unix"}:
        raise ValueError(
            "does not start with redis://, rediss://, unix:// or redis+sentinel://"
        )
    if parts.scheme == "unix" and (parts.hostname or not parts.path.startswith("/")):
        raise ValueError("is not unix:// and an absolute path")
    if parts.scheme != "unix" and not parts.hostname:
        raise ValueError("names no host")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    cluster = boolean(options.pop("cluster", "false"))
    if cluster and parts.scheme == "unix":
        raise ValueError("asks for a cluster behind one unix socket")
    if unknown := _unknown(options, {"db"}):
        raise ValueError(unknown)
    if not re.fullmatch(r"[0-9]{1,5}", options.get("db", "0")):
        raise ValueError("has no number as its db")
    if cluster and {parts.path.strip("/"), options.get("db", "0")} - {"", "0"}:
        raise ValueError("names a database, which a cluster does not have")
    return given


def asks_sentinels(given: str) -> bool:
    return given.partition("://")[0].lower().endswith("+sentinel")


def sentinel_url(given: str) -> SentinelUrl:
    """`redis+sentinel://[user:password@]host[:port][,host[:port]…]/service[/db]`.

    The options `sentinel_username` and `sentinel_password` are for Sentinels that ask
    for a login of their own. Raises ValueError with an example in it.
    """
    found = _SENTINELS.fullmatch(given)
    if found is None:
        raise _wrong("is no address of Sentinels")
    hosts = [_SENTINEL.fullmatch(host) for host in found["hosts"].split(",")]
    sentinels = [_address(host) for host in hosts if host is not None]
    if len(sentinels) < len(hosts):
        raise _wrong("does not list its Sentinels as host:port with commas")
    if not _SERVICE.fullmatch(found["service"] or ""):
        raise _wrong("does not name the service after its Sentinels")
    db = found["db"] or "0"
    if not re.fullmatch(r"[0-9]{1,5}", db):
        raise _wrong("has no number as its database")
    options = dict(parse_qsl(found["options"] or "", keep_blank_values=True))
    if unknown := _unknown(options, {"sentinel_username", "sentinel_password"}):
        raise _wrong(unknown)
    username, _, password = (found["login"] or "").partition(":")
    return SentinelUrl(
        sentinels=tuple(sentinels),
        service=found["service"],
        db=int(db),
        tls=found["tls"].lower() == "rediss",
        login=Login(unquote(username), unquote(password)),
        sentinel_login=Login(
            options.get("sentinel_username", ""), options.get("sentinel_password", "")
        ),
    )


def _address(found: re.Match[str]) -> tuple[str, int]:
    port = int(found["port"] or SENTINEL_PORT)
    if not 1 <= port <= 65535:
        raise _wrong("has no port between 1 and 65535")
    return found["host"].strip("[]"), port


def _unknown(options: dict[str, str], known: set[str]) -> str:
    names = sorted(options.keys() - known)
    return f"has options we do not know: {', '.join(names)}" if names else ""


def _wrong(what: str) -> ValueError:
    return ValueError(f"{what}; a good one is {_SENTINEL_EXAMPLE}")
