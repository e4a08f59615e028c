"""Texts that are stored sealed: unreadable, and useless anywhere but in their place.

AES-SIV (RFC 5297): authenticated encryption that gives one text for one text in one
place. So a write that changes nothing can be told from one that does, without opening
either; that two records are equal shows only where they lie in the same place.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

import structlog
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV

from services.chassis.clock import Clock, SystemClock
from services.chassis.errors import Reason, ServiceError
from services.chassis.key_files import (
    KeysError,
    check_mode,
    kid_time,
    new_kid,
    write_secret,
)
from services.chassis.key_sources import LOOK_EVERY_S
from services.chassis.telemetry import Event

_PREFIX: Final = "sealing-"
_SUFFIX: Final = ".key"
_BYTES: Final = 64
# Keeps what the same key does in two ways apart.
_DIGESTS: Final = b"tk digests"

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Key:
    cipher: AESSIV
    digest_key: bytes


class SealingKeys:
    """The keys of a folder, looked at again when it changes. The newest whose time has
    come seals; all of them open, for as long as something is sealed with them."""

    def __init__(self, folder: Path, clock: Clock | None = None) -> None:
        self._folder = folder
        self._clock = clock or SystemClock()
        self._keys = _read(folder)
        if not self._keys:
            raise KeysError(
                f"cannot seal: {folder} holds no {_PREFIX}<kid>{_SUFFIX}; make one "
                "with `townkeeper keys rotate --sealing`"
            )
        self._looked_at = self._clock.monotonic()

    @classmethod
    def create(cls, folder: Path, clock: Clock | None = None) -> SealingKeys:
        """Like the constructor, but makes the folder and a first key where there is
        none."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _files(folder):
            _write(folder, new_kid((clock or SystemClock()).now()))
        return cls(folder, clock)

    @property
    def kids(self) -> tuple[str, ...]:
        """The ids of the keys, oldest first."""
        return tuple(self._keys)

    @property
    def kid(self) -> str:
        """The id of the key that seals now."""
        self._look_if_due()
        now = self._clock.now()
        come = [kid for kid in self._keys if kid_time(kid) <= now]
        return come[-1] if come else next(iter(self._keys))

    def seal(self, text: bytes, *place: str) -> bytes:
        """The text, to be opened with the same place only."""
        kid = self.kid
        sealed = self._keys[kid].cipher.encrypt(text, _bound(kid, place))
        return kid.encode() + b"." + sealed

    def open(self, sealed: bytes, *place: str) -> bytes:
        """Raises RECORD_CORRUPT, and KEYS_UNAVAILABLE when its key is not here."""
        kid_raw, _, text = sealed.partition(b".")
        kid = kid_raw.decode("ascii", "replace")
        if kid not in self._keys:
            self._look()
        if kid not in self._keys:
            raise ServiceError(
                Reason.KEYS_UNAVAILABLE,
                f"cannot open what is stored, its key {kid[:80]} is not here: put "
                f"{_PREFIX}{kid[:80]}{_SUFFIX} back",
            )
        try:
            return self._keys[kid].cipher.decrypt(text, _bound(kid, place))
        except (InvalidTag, ValueError) as error:
            raise ServiceError(
                Reason.RECORD_CORRUPT,
                "cannot open what is stored, it was changed or moved: write it anew",
            ) from error

    def digest(self, text: str) -> str:
        """Tells equal texts from others, and nothing to who has no key. The oldest key
        makes it, so that it stays when keys are added."""
        key = next(iter(self._keys.values())).digest_key
        return hashlib.blake2b(text.encode(), key=key, digest_size=16).hexdigest()

    def _look_if_due(self) -> None:
        if self._clock.monotonic() - self._looked_at >= LOOK_EVERY_S:
            self._look()

    def _look(self) -> None:
        self._looked_at = self._clock.monotonic()
        names = {_kid(path) for path in _files(self._folder)}
        if names == self._keys.keys():
            return
        try:
            keys = _read(self._folder)
        except (KeysError, OSError) as error:
            _log.error(Event.KEYS_UNREADABLE, folder=str(self._folder), why=str(error))
            return
        # One that was removed is kept until we end: records may need it yet.
        self._keys = dict(sorted({**self._keys, **keys}.items()))


def rotate_sealing(
    folder: Path, lead_s: float = 0.0, clock: Clock | None = None
) -> str:
    """Adds a key that seals after the lead; older ones go on opening. Its id."""
    now = (clock or SystemClock()).now()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    files = _files(folder)
    after = _kid(files[-1]) if files else ""
    kid = new_kid(now + timedelta(seconds=lead_s if files else 0.0), after=after)
    _write(folder, kid)
    return kid


def sealing_files(folder: Path) -> list[Path]:
    """The files of a folder's sealing keys, oldest first."""
    return _files(folder)


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"{_PREFIX}*{_SUFFIX}"))


def _kid(path: Path) -> str:
    return path.name[len(_PREFIX) : -len(_SUFFIX)]


def _write(folder: Path, kid: str) -> None:
    key = secrets.token_bytes(_BYTES).hex().encode()
    write_secret(folder / f"{_PREFIX}{kid}{_SUFFIX}", key)


def _read(folder: Path) -> dict[str, _Key]:
    return {_kid(path): _read_key(path) for path in _files(folder)}


def _read_key(path: Path) -> _Key:
    check_mode(path)
    try:
        key = bytes.fromhex(path.read_text("ascii").strip())
    except (OSError, ValueError) as error:
        raise KeysError(f"cannot read the key {path}: put it back") from error
    if len(key) != _BYTES:
        raise KeysError(f"cannot use {path}: it must hold {_BYTES} bytes in hex")
    return _Key(AESSIV(key), hashlib.blake2b(key, person=_DIGESTS).digest())


def _bound(kid: str, place: tuple[str, ...]) -> list[bytes]:
    return [b"townkeeper", kid.encode(), *(part.encode() for part in place)]
