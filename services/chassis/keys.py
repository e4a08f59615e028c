"""The signing keys of a folder: which of them signs, tokens, rotation.

A new key is published before it signs: whoever verifies has learnt it by then. An old
one proves what it signed until the last of that has expired, and can go then. Beside
the private keys a folder may hold `jwks.json`, the public keys of others.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from services.chassis import key_files
from services.chassis.access import ANY_TOWN, EVERYWHERE, RENEWAL_GRACE_S, Kind
from services.chassis.clock import Clock, SystemClock
from services.chassis.errors import Reason, ServiceError
from services.chassis.jwks import ALGORITHM, PublicKeys, parse_jwks, to_jwks
from services.chassis.key_files import KeysError
from services.chassis.names import check_id

__all__ = [
    "ALGORITHM",
    "AUDIENCE",
    "JWKS_FILE",
    "KeyRing",
    "KeysError",
    "PublicKeys",
    "parse_jwks",
    "read_public_keys",
    "to_jwks",
]

AUDIENCE: Final = "townkeeper"
DEFAULT_TTL_S: Final = 8 * 3600.0
# Longer lives are refused: that a token is revoked must be remembered for as long.
LIFE_MAX_S: Final = 366 * 24 * 3600.0
JWKS_FILE: Final = "jwks.json"
# A service that follows us through another one asks every five minutes, as that one
# does; each may lose a try.
LEAD_S: Final = 15 * 60.0
# Whoever cannot write into the folder mints nothing that lives longer.
UNNOTED_TTL_S: Final = 8 * 3600.0
# An expired token may be exchanged yet; and clocks differ, with which verifiers bear.
_SLACK: Final = timedelta(seconds=RENEWAL_GRACE_S, minutes=1)


class KeyState(StrEnum):
    """What a key is good for now."""

    PUBLISHED = "published"
    SIGNS = "signs"
    VERIFIES = "verifies"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class KeyInfo:
    """One key: from when it signs, until when tokens of it live."""

    kid: str
    state: KeyState
    signs_from: datetime
    needed_until: datetime | None = None


@dataclass(frozen=True, slots=True)
class KeyRing:
    """The private keys of a folder, oldest first."""

    folder: Path
    keys: tuple[tuple[str, Ed25519PrivateKey], ...]
    clock: Clock

    @classmethod
    def load(cls, folder: Path, clock: Clock | None = None) -> KeyRing:
        """Reads the folder; it must hold at least one signing key."""
        keys = key_files.private_keys(folder)
        if not keys:
            raise KeysError(
                f"cannot sign: {folder} holds no signing-<kid>.pem; make one with "
                "`townkeeper keys rotate`"
            )
        return cls(folder, keys, clock or SystemClock())

    @classmethod
    def create(cls, folder: Path, clock: Clock | None = None) -> KeyRing:
        """Like `load`, but makes the folder and a first key where there is none."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not key_files.private_keys(folder):
            now = (clock or SystemClock()).now()
            key_files.write_key(folder, key_files.new_kid(now))
        return cls.load(folder, clock)

    def rotate(self, lead_s: float = 0.0) -> KeyRing:
        """Adds a key, which signs after the lead; tokens of older ones stay good.

        Without a lead a key that is published already is told to sign now.
        """
        now, newest = self.clock.now(), self.keys[-1][0]
        waiting = newest != self.kid
        if waiting and lead_s:
            raise KeysError(
                f"cannot rotate: {newest} is published and signs from "
                f"{key_files.kid_time(newest):%FT%TZ}; wait, or let it sign now"
            )
        if not waiting:
            signs_from = now + timedelta(seconds=lead_s)
            newest = key_files.new_kid(signs_from, after=newest)
            key_files.write_key(self.folder, newest)
        if not lead_s and key_files.kid_time(newest) > now:
            key_files.tell_to_sign(self.folder, newest)
        return self.load(self.folder, self.clock)

    def prune(self, *, all_old: bool = False) -> list[str]:
        """Removes the keys that no living token needs, or all that sign no more;
        returns their ids."""
        gone = {KeyState.EXPIRED} | ({KeyState.VERIFIES} if all_old else set())
        kids = [info.kid for info in self.infos() if info.state in gone]
        for kid in kids:
            key_files.remove_key(self.folder, kid)
        return kids

    def infos(self) -> list[KeyInfo]:
        """What each key is good for, oldest first."""
        now, signer = self.clock.now(), self.kid
        found = []
        for index, (kid, _) in enumerate(self.keys):
            signs_from = key_files.kid_time(kid)
            if kid == signer:
                found.append(KeyInfo(kid, KeyState.SIGNS, signs_from))
            elif kid > signer:
                found.append(KeyInfo(kid, KeyState.PUBLISHED, signs_from))
            else:
                until = self._needed_until(kid, successor=self.keys[index + 1][0])
                state = KeyState.VERIFIES if now <= until else KeyState.EXPIRED
                found.append(KeyInfo(kid, state, signs_from, until))
        return found

    def _needed_until(self, kid: str, successor: str) -> datetime:
        last_signed = key_files.kid_time(successor)
        unnoted = last_signed + timedelta(seconds=UNNOTED_TTL_S)
        return max(key_files.last_expiry(self.folder, kid), unnoted) + _SLACK

    def _may_sign(self, kid: str) -> bool:
        come = key_files.kid_time(kid) <= self.clock.now()
        return come or key_files.told_to_sign(self.folder, kid)

    @property
    def kid(self) -> str:
        """The id of the key that signs now: the newest whose time has come."""
        return self._signer()[0]

    def _signer(self) -> tuple[str, Ed25519PrivateKey]:
        for kid, key in reversed(self.keys):
            if self._may_sign(kid):
                return kid, key
        # A clock that went back far: what was published first is known best.
        return self.keys[0]

    def mint(
        self,
        kind: Kind,
        *,
        town: str | None = None,
        towns: Sequence[str] = (),
        rig: str | None = None,
        agent: str | None = None,
        user: str | None = None,
        run: str | None = None,
        family: str | None = None,
        ttl_s: float = DEFAULT_TTL_S,
        generation: int | None = None,
    ) -> str:
        """A signed token; `towns` is for operators and users, `*` for operators and
        services."""
        reach = [*([town] if town else []), *towns]
        _check_claims(kind, reach, rig, agent, user)
        if ttl_s > LIFE_MAX_S:
            raise _wrong("cannot mint a token for more than 366 days: give it less")
        now = self.clock.now()
        expires = now + timedelta(seconds=ttl_s)
        claims: dict[str, Any] = {
            "aud": AUDIENCE,
            "scope": kind.value,
            "jti": secrets.token_hex(16),
            "iat": int(now.timestamp()),
            "exp": int(expires.timestamp()),
            "gen": generation,
            "rigId": rig,
            "agentId": agent,
            "runId": run,
            "family": family,
            "userId": user,
        }
        claims |= {"towns": reach} if kind in _MANY_TOWNS else {"townId": reach[0]}
        given = {key: value for key, value in claims.items() if value is not None}
        kid, key = self._signer()
        self._note(kid, expires, ttl_s)
        return jwt.encode(given, key, algorithm=ALGORITHM, headers={"kid": kid})

    def _note(self, kid: str, expires: datetime, ttl_s: float) -> None:
        try:
            key_files.note_expiry(self.folder, kid, expires)
        except OSError as error:
            if ttl_s > UNNOTED_TTL_S:
                raise KeysError(
                    f"cannot note in {self.folder} how long the token lives "
                    f"({error.strerror}): let us write there, or mint one for at most "
                    f"{UNNOTED_TTL_S / 3600:g} hours"
                ) from error

    def jwks(self) -> dict[str, Any]:
        """The public keys, as `/.well-known/jwks.json` shows them."""
        return to_jwks({kid: key.public_key() for kid, key in self.keys})


_MANY_TOWNS: Final = frozenset({Kind.USER, *EVERYWHERE})


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
        elif kind not in EVERYWHERE:
            raise _wrong(
                f"cannot mint a {kind} token for all towns: only operators and "
                "services have them"
            )
    if kind is Kind.AGENT:
        check_id(agent or "", "agent")
        # A mayor's is named after its town, whose id may have all 128 characters.
        check_id((rig or "").removeprefix("mayor-") or rig or "", "rig")
    if kind is Kind.USER and not user:
        raise _wrong("cannot mint a user token: name the user")


def _wrong(message: str) -> ServiceError:
    return ServiceError(Reason.FIELD_INVALID, message)


def read_public_keys(folder: Path) -> PublicKeys:
    """All keys a folder trusts: its own signing keys and those of its JWKS file."""
    keys = {kid: key.public_key() for kid, key in key_files.private_keys(folder)}
    published = folder / JWKS_FILE
    if published.exists():
        keys |= parse_jwks(published.read_bytes(), str(published))
    return keys
