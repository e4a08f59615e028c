"""What settings may look like: each parser gives the value or a ValueError.

The error completes a sentence that starts with the variable's name. It never repeats
what was given, which may hold a password.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import SplitResult, unquote, urlsplit

from services.chassis.names import check_id

T = TypeVar("T")

_TRUE: Final = frozenset({"1", "true", "yes", "on"})
_FALSE: Final = frozenset({"0", "false", "no", "off"})
_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
# S3's own rule for bucket names, as far as it is a rule about characters.
_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_PREFIX_PART: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")
_HOST: Final = re.compile(
    r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\]"
)
UIDS_MAX: Final = 10_000


def _like(example: str) -> Callable[[Callable[[str], T]], Callable[[str], T]]:
    """Attaches the example that a complaint shows."""

    def mark(parse: Callable[[str], T]) -> Callable[[str], T]:
        setattr(parse, "example", example)  # noqa: B010  a function has no such field
        return parse

    return mark


def text(given: str) -> str:
    """Any text without control characters."""
    if not given.isprintable():
        raise ValueError("has control characters")
    return given


@_like("registry:50051")
def address(given: str) -> str:
    """`host:port` to call."""
    return _address(given, lowest=1)


@_like("127.0.0.1:50051")
def listen_address(given: str) -> str:
    """`host:port` to listen on; port 0 asks for a free one."""
    return _address(given, lowest=0)


def _address(given: str, lowest: int) -> str:
    host, colon, port = given.rpartition(":")
    if not colon or not _HOST.fullmatch(host):
        raise ValueError("is not host:port")
    if not re.fullmatch(r"[0-9]{1,5}", port) or not lowest <= int(port) <= 65535:
        raise ValueError(f"has no port between {lowest} and 65535")
    return given


@_like("8080")
def port(given: str) -> int:
    """A port number; 0 asks for a free one."""
    return _integer(given, 0, 65535)


@_like("16")
def positive_int(given: str) -> int:
    return _integer(given, 1, 2**63 - 1)


@_like("0")
def natural_int(given: str) -> int:
    return _integer(given, 0, 2**63 - 1)


def _integer(given: str, lowest: int, highest: int) -> int:
    if not re.fullmatch(r"[0-9]{1,19}", given) or not lowest <= int(given) <= highest:
        raise ValueError(f"is not a whole number from {lowest} to {highest}")
    return int(given)


@_like("30s")
def duration(given: str) -> float:
    """A span like `500ms`, `30s`, `1h30m`, in seconds; never zero."""
    if not re.fullmatch(r"([0-9]+(\.[0-9]+)?(ms|s|m|h|d))+", given):
        raise ValueError("is not a duration in ms, s, m, h or d")
    parts = re.findall(r"([0-9.]+)(ms|s|m|h|d)", given)
    seconds = sum(float(number) * _SECONDS[unit] for number, unit in parts)
    if not 0 < seconds < 10 * 365 * 86400:
        raise ValueError("is not a duration between 1 ms and 10 years")
    return seconds


@_like("true")
def boolean(given: str) -> bool:
    word = given.lower()
    if word not in _TRUE | _FALSE:
        raise ValueError("is neither true nor false")
    return word in _TRUE


@_like("2001-2032")
def uids(given: str) -> tuple[int, ...]:
    """User ids like `2001,2005-2032`; never 0, each once."""
    found: list[int] = []
    for part in given.split(","):
        first, dash, last = part.strip().partition("-")
        low = _integer(first, 1, 2**31 - 1)
        high = _integer(last, low, 2**31 - 1) if dash else low
        if high - low >= UIDS_MAX:
            raise ValueError(f"lists more than {UIDS_MAX} user ids")
        found.extend(range(low, high + 1))
    if len(set(found)) != len(found):
        raise ValueError("lists a user id twice")
    return tuple(found)


@_like("town-1")
def town_id(given: str) -> str:
    return check_id(given, "town")


@_like("supervisor-0")
def instance_id(given: str) -> str:
    return check_id(given, "instance")


@_like("/var/lib/townkeeper")
def directory(given: str) -> Path:
    """A folder we may write to, or may create; made absolute."""
    path = Path(given).expanduser().absolute()
    existing = path
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir():
        raise ValueError(f"needs {existing} to be a directory, which it is not")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise ValueError(f"needs {existing} to be writable, which it is not")
    return path


@_like("/etc/townkeeper/keys")
def readable_directory(given: str) -> Path:
    """A folder that is there and readable; mounted secrets cannot be written to."""
    path = Path(given).expanduser().absolute()
    if not path.is_dir() or not os.access(path, os.R_OK | os.X_OK):
        raise ValueError("names no readable directory")
    return path


@_like("/etc/townkeeper/tls.pem")
def existing_file(given: str) -> Path:
    """A file that is there and readable."""
    path = Path(given).expanduser().absolute()
    if not path.is_file() or not os.access(path, os.R_OK):
        raise ValueError("names no readable file")
    return path


@_like("/usr/local/bin/kilo")
def executable(given: str) -> Path:
    """A program that is there and may be run."""
    path = Path(given).expanduser().absolute()
    if not path.is_file() or not os.access(path, os.X_OK):
        raise ValueError("names no program that can be run")
    return path


def split_url(given: str) -> SplitResult:
    """The parts of a URL. Raises a ValueError that does not repeat its login."""
    try:
        parts = urlsplit(given)
        _ = parts.port
    except ValueError:
        raise ValueError("has no valid host or port") from None
    return parts


@_like("https://example.org/.well-known/jwks.json")
def http_url(given: str) -> str:
    parts = split_url(given)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("is not an http:// or https:// URL")
    return given


@dataclass(frozen=True, slots=True)
class BlobUrl:
    """Where blobs lie: a folder (`root`), or a bucket and a prefix in S3."""

    url: str
    root: Path | None = None
    bucket: str = ""
    prefix: str = ""

    def __str__(self) -> str:
        return self.url


@_like("file:///var/lib/townkeeper/blobs")
def blob_url(given: str) -> BlobUrl:
    """`file:///absolute/folder` or `s3://bucket/prefix`."""
    parts = split_url(given)
    if parts.query or parts.fragment:
        raise ValueError("has a query or fragment, which blob URLs do not take")
    if parts.scheme == "file":
        if parts.netloc or not parts.path.startswith("/") or parts.path == "/":
            raise ValueError("is not file:/// and an absolute folder")
        return BlobUrl(given, root=directory(unquote(parts.path)))
    if parts.scheme == "s3":
        if not _BUCKET.fullmatch(parts.netloc):
            raise ValueError("names no valid bucket after s3://")
        prefix = unquote(parts.path).strip("/")
        if any(
            not _PREFIX_PART.fullmatch(part) for part in prefix.split("/") if prefix
        ):
            raise ValueError("has a prefix that is not letters, digits, and ._- in it")
        return BlobUrl(given, bucket=parts.netloc, prefix=prefix)
    raise ValueError("does not start with file:/// or s3://")


def one_of(*words: str) -> Callable[[str], str]:
    """A parser for one of the words given."""

    def parse(given: str) -> str:
        if given not in words:
            raise ValueError(f"is none of {', '.join(words)}")
        return given

    return _like(words[0])(parse)
