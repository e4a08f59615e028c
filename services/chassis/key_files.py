"""The files of a keys folder: private keys, and what must be known of each.

`signing-<kid>.pem` is a private key (0600). A key id starts with the time from which
its key signs. Beside a key may lie empty files, whose names alone speak:
`signing-<kid>.now` lets it sign before that time, `signing-<kid>.until-<hour>` says
how long a token lives that it signed.
"""

from __future__ import annotations

import os
import secrets
import stat
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

_PREFIX: Final = "signing-"
_SUFFIX: Final = ".pem"
_NOW: Final = ".now"
_UNTIL: Final = ".until-"
_KID_TIME: Final = "%Y%m%dT%H%M%S%f"
_KID_TIME_LENGTH: Final = len("20260131T235959000000")
_HOUR: Final = "%Y%m%dT%H"
_ALWAYS: Final = datetime.min.replace(tzinfo=UTC)


class KeysError(Exception):
    """A keys folder or key set cannot be used; the text says what to do."""


def key_files(folder: Path) -> list[Path]:
    """The private keys' files, oldest first."""
    return sorted(folder.glob(f"{_PREFIX}*{_SUFFIX}"))


def private_keys(folder: Path) -> tuple[tuple[str, Ed25519PrivateKey], ...]:
    """Key ids and keys, oldest first. Raises KeysError for one that others reach."""
    found = []
    for path in key_files(folder):
        check_mode(path)
        found.append((path.name[len(_PREFIX) : -len(_SUFFIX)], _read_private(path)))
    return tuple(found)


def check_mode(path: Path) -> None:
    """Raises KeysError for a key that others may read or change."""
    mode = stat.S_IMODE(path.stat().st_mode)
    # A group may read: that is how a mounted Kubernetes secret reaches us.
    if mode & (stat.S_IRWXO | stat.S_IWGRP):
        raise KeysError(
            f"cannot use {path}: others may read or change it (mode {mode:04o}); "
            f"run chmod 600 {path}"
        )


def _read_private(path: Path) -> Ed25519PrivateKey:
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise KeysError(f"cannot read the key {path}: replace or remove it") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise KeysError(f"cannot use {path}: make it an Ed25519 key")
    return key


def kid_time(kid: str) -> datetime:
    """From when a key signs; a name of another form has always done so."""
    try:
        found = datetime.strptime(kid[:_KID_TIME_LENGTH], _KID_TIME)
    except ValueError:
        return _ALWAYS
    return found.replace(tzinfo=UTC)


def new_kid(signs_from: datetime, after: str = "") -> str:
    """A key id that sorts after the given one, even when the clock went back."""
    if after and f"{signs_from:{_KID_TIME}}" <= after[:_KID_TIME_LENGTH]:
        last = kid_time(after)
        if last == _ALWAYS:
            raise KeysError(
                f"cannot rotate: the key {after} would go on signing; rename it so "
                "that it starts with the time it was made"
            )
        signs_from = last + timedelta(microseconds=1)
    return f"{signs_from:{_KID_TIME}}-{secrets.token_hex(4)}"


def write_key(folder: Path, kid: str) -> None:
    """Makes a key, durably; no reader ever sees half of it."""
    pem = Ed25519PrivateKey.generate().private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    write_secret(folder / f"{_PREFIX}{kid}{_SUFFIX}", pem)


def write_secret(path: Path, content: bytes) -> None:
    """Writes a file that only its owner reads: aside, synced, then renamed."""
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.new")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    aside.rename(path)
    _sync_folder(path.parent)


def remove_key(folder: Path, kid: str) -> None:
    """Forgets a key and what was noted of it."""
    (folder / f"{_PREFIX}{kid}{_SUFFIX}").unlink(missing_ok=True)
    for note in folder.glob(f"{_PREFIX}{kid}.*"):
        note.unlink(missing_ok=True)
    _sync_folder(folder)


def tell_to_sign(folder: Path, kid: str) -> None:
    """Lets a key sign before its time."""
    (folder / f"{_PREFIX}{kid}{_NOW}").touch(mode=0o600)
    _sync_folder(folder)


def told_to_sign(folder: Path, kid: str) -> bool:
    return (folder / f"{_PREFIX}{kid}{_NOW}").exists()


def note_expiry(folder: Path, kid: str, expires: datetime) -> None:
    """Notes that a token of this key lives so long. Raises OSError.

    A file for each hour, made before it is needed and never changed: minters that
    race can only note too much.
    """
    hour = expires.astimezone(UTC) + timedelta(hours=1)
    note = folder / f"{_PREFIX}{kid}{_UNTIL}{hour:{_HOUR}}"
    if note.exists():
        return
    note.touch(mode=0o600)
    _sync_folder(folder)
    for older in folder.glob(f"{_PREFIX}{kid}{_UNTIL}*"):
        if older.name < note.name:
            with suppress(OSError):
                older.unlink()


def last_expiry(folder: Path, kid: str) -> datetime:
    """When the last token that was noted expires; long ago if none was."""
    found = _ALWAYS
    for note in folder.glob(f"{_PREFIX}{kid}{_UNTIL}*"):
        with suppress(ValueError):
            hour = datetime.strptime(note.name.rpartition("-")[2], _HOUR)
            found = max(found, hour.replace(tzinfo=UTC))
    return found


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
