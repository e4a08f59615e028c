"""Signing keys as files, public keys as a JWKS: where trust in tokens comes from.

A folder holds `signing-<kid>.pem` (private, 0600) and perhaps `jwks.json` (public
keys of others). Key ids start with the time they were made, so the last one signs.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from services.chassis.access import ANY_TOWN, Kind
from services.chassis.clock import Clock, SystemClock
from services.chassis.errors import Reason, ServiceError
from services.chassis.names import check_id

AUDIENCE: Final = "townkeeper"
ALGORITHM: Final = "EdDSA"
DEFAULT_TTL_S: Final = 8 * 3600.0
JWKS_FILE: Final = "jwks.json"
_PREFIX: Final = "signing-"
_SUFFIX: Final = ".pem"
_KID_TIME: Final = "%Y%m%dT%H%M%S%f"
_KID_TIME_LENGTH: Final = len("20260131T235959000000")

PublicKeys = Mapping[str, Ed25519PublicKey]


class KeysError(Exception):
    """A keys folder or key set cannot be used; the text says what to do."""


@dataclass(frozen=True, slots=True)
class KeyRing:
    """The private keys of a folder; mints tokens with the newest."""

    folder: Path
    keys: tuple[tuple[str, Ed25519PrivateKey], ...]
    clock: Clock

    @classmethod
    def load(cls, folder: Path, clock: Clock | None = None) -> KeyRing:
        """Reads the folder; it must hold at least one signing key."""
        keys = _private_keys(folder)
        if not keys:
            raise KeysError(
                f"cannot sign: {folder} holds no {_PREFIX}<kid>{_SUFFIX}; make one "
                "with `townkeeper keys rotate`"
            )
        return cls(folder, keys, clock or SystemClock())

    @classmethod
    def create(cls, folder: Path, clock: Clock | None = None) -> KeyRing:
        """Like `load`, but makes the folder and a first key where there is none."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _private_keys(folder):
            _write_key(folder, _kid((clock or SystemClock()).now()))
        return cls.load(folder, clock)

    def rotate(self) -> KeyRing:
        """Adds a key that signs from now on; tokens of the older ones stay good."""
        _write_key(self.folder, _kid(self.clock.now(), after=self.kid))
        return self.load(self.folder, self.clock)

    @property
    def kid(self) -> str:
        """The id of the key that signs."""
        return self.keys[-1][0]

    def mint(
        self,
        kind: Kind,
        *,
        town: str | None = None,
        towns: Sequence[str] = (),
        rig: str | None = None,
        agent: str | None = None,
        user: str | None = None,
        ttl_s: float = DEFAULT_TTL_S,
        generation: int = 0,
    ) -> str:
        """A signed token; `towns` is for operators and users, `*` for operators."""
        reach = [*([town] if town else []), *towns]
        _check_claims(kind, reach, rig, agent, user)
        now = self.clock.now()
        claims: dict[str, Any] = {
            "aud": AUDIENCE,
            "scope": kind.value,
            "jti": secrets.token_hex(16),
            "iat": int(now.timestamp()),
            "exp": int((now + timedelta(seconds=ttl_s)).timestamp()),
            "gen": generation,
            "rigId": rig,
            "agentId": agent,
            "userId": user,
        }
        claims |= {"towns": reach} if kind in _MANY_TOWNS else {"townId": reach[0]}
        given = {key: value for key, value in claims.items() if value is not None}
        kid, key = self.keys[-1]
        return jwt.encode(given, key, algorithm=ALGORITHM, headers={"kid": kid})

    def jwks(self) -> dict[str, Any]:
        """The public keys, as `/.well-known/jwks.json` shows them."""
        return to_jwks({kid: key.public_key() for kid, key in self.keys})


_MANY_TOWNS: Final = frozenset({Kind.USER, Kind.OPERATOR})


def _check_claims(
    kind: Kind,
    towns: Sequence[str],
    rig: str | None,
    agent: str | None,
    user: str | None,
) -> None:
    if not towns or (kind not in _MANY_TOWNS and len(towns) != 1):
        raise _wrong(f"cannot mint a {kind} token: name its town")
    for town in towns:
        if town != ANY_TOWN:
            check_id(town, "town")
        elif kind is not Kind.OPERATOR:
            raise _wrong("cannot mint a token for all towns: only operators have them")
    if kind is Kind.AGENT:
        check_id(agent or "", "agent")
        check_id(rig or "", "rig")
    if kind is Kind.USER and not user:
        raise _wrong("cannot mint a user token: name the user")


def _wrong(message: str) -> ServiceError:
    return ServiceError(Reason.FIELD_INVALID, message)


def _private_keys(folder: Path) -> tuple[tuple[str, Ed25519PrivateKey], ...]:
    found = []
    for path in sorted(folder.glob(f"{_PREFIX}*{_SUFFIX}")):
        mode = stat.S_IMODE(path.stat().st_mode)
        # A group may read: that is how a mounted Kubernetes secret reaches us.
        if mode & (stat.S_IRWXO | stat.S_IWGRP):
            raise KeysError(
                f"cannot use {path}: others may read or change it (mode {mode:04o}); "
                f"run chmod 600 {path}"
            )
        found.append((path.name[len(_PREFIX) : -len(_SUFFIX)], _read_private(path)))
    return tuple(found)


def _read_private(path: Path) -> Ed25519PrivateKey:
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise KeysError(f"cannot read the key {path}: replace or remove it") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise KeysError(f"cannot use {path}: make it an Ed25519 key")
    return key


def _kid(now: datetime, after: str = "") -> str:
    """A key id that sorts after the given one, even when the clock went back."""
    if after and f"{now:{_KID_TIME}}" <= after[:_KID_TIME_LENGTH]:
        try:
            last = datetime.strptime(after[:_KID_TIME_LENGTH], _KID_TIME)
        except ValueError as error:
            raise KeysError(
                f"cannot rotate: the key {after} would go on signing; rename it so "
                "that it starts with the time it was made"
            ) from error
        now = last + timedelta(microseconds=1)
    return f"{now:{_KID_TIME}}-{secrets.token_hex(4)}"


def _write_key(folder: Path, kid: str) -> None:
    pem = Ed25519PrivateKey.generate().private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    # Written aside and renamed: no reader ever sees half a key.
    aside = folder / f".{kid}.new"
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(pem)
        file.flush()
        os.fsync(file.fileno())
    aside.rename(folder / f"{_PREFIX}{kid}{_SUFFIX}")
    _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_public_keys(folder: Path) -> PublicKeys:
    """All keys a folder trusts: its own signing keys and those of its JWKS file."""
    keys = {kid: key.public_key() for kid, key in _private_keys(folder)}
    published = folder / JWKS_FILE
    if published.exists():
        keys |= parse_jwks(published.read_bytes(), str(published))
    return keys


def to_jwks(keys: PublicKeys) -> dict[str, Any]:
    """Public keys in the JSON form of RFC 7517 and RFC 8037."""
    return {
        "keys": [
            {
                "kty": "OKP",
                "crv": "Ed25519",
                "use": "sig",
                "alg": ALGORITHM,
                "kid": kid,
                "x": base64.urlsafe_b64encode(
                    key.public_bytes(Encoding.Raw, PublicFormat.Raw)
                )
                .rstrip(b"=")
                .decode(),
            }
            for kid, key in keys.items()
        ]
    }


def parse_jwks(raw: bytes, source: str) -> dict[str, Ed25519PublicKey]:
    """The Ed25519 keys of a JWKS document; keys of other kinds are passed over."""
    try:
        entries = json.loads(raw)["keys"]
        return {
            str(entry["kid"]): _decode_key(entry["x"])
            for entry in entries
            if entry.get("crv") == "Ed25519" and entry.get("kid")
        }
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise KeysError(f"cannot read keys from {source}: give it a JWKS") from error


def _decode_key(text: str) -> Ed25519PublicKey:
    padded = text + "=" * (-len(text) % 4)
    return Ed25519PublicKey.from_public_bytes(base64.urlsafe_b64decode(padded))
