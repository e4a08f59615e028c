"""Bearer token → Caller: signature, audience, time, revocation.

A verified token is remembered until it expires or the set of trusted keys changes.
The names of access.py are found here as well.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import jwt

from services.chassis.access import (
    ANY_TOWN,
    EVERYWHERE,
    OPEN,
    Caller,
    Kind,
    Rule,
    authorize,
    authorize_names,
    current_caller,
    rule,
)
from services.chassis.clock import Clock, SystemClock
from services.chassis.errors import Reason, ServiceError
from services.chassis.key_sources import DirectoryKeys, KeySource, UrlKeys
from services.chassis.keys import ALGORITHM, AUDIENCE, LIFE_MAX_S, to_jwks
from services.chassis.names import check_id
from services.chassis.revocations import RevocationList, Revocations, check_revoked

__all__ = [
    "ANY_TOWN",
    "OPEN",
    "Caller",
    "Kind",
    "RevocationList",
    "Revocations",
    "Rule",
    "Verifier",
    "authorize",
    "authorize_names",
    "current_caller",
    "rule",
    "token_expired",
]

TOKEN_BYTES_MAX: Final = 8 * 1024
LEEWAY_S: Final = 5.0
# A caller takes under 1 KiB: 4 MiB at most, for more live tokens than a town has.
REMEMBERED_MAX: Final = 4096
HS256_SECRET_BYTES_MIN: Final = 32
_HS256: Final = "HS256"
# What a malformed token can make the decoders raise, deep nesting included.
_UNREADABLE: Final = (
    jwt.InvalidTokenError,
    ValueError,
    TypeError,
    OverflowError,
    RecursionError,
)


class Verifier:
    """Proves tokens with keys from a folder or a URL."""

    def __init__(
        self,
        keys: KeySource,
        *,
        clock: Clock | None = None,
        revocations: Revocations | None = None,
        hs256_secret: bytes | None = None,
    ) -> None:
        if hs256_secret is not None and len(hs256_secret) < HS256_SECRET_BYTES_MIN:
            raise ValueError(
                f"cannot use a secret under {HS256_SECRET_BYTES_MIN} bytes: "
                "generate a longer one"
            )
        self._keys = keys
        self._clock = clock or SystemClock()
        self._revocations = revocations or RevocationList()
        self._hs256_secret = hs256_secret
        self._remembered: OrderedDict[bytes, Caller] = OrderedDict()
        self._keys_version = keys.version

    @classmethod
    def from_directory(cls, folder: Path, **options: Any) -> Verifier:
        return cls(DirectoryKeys(folder), **options)

    @classmethod
    def from_url(cls, url: str, **options: Any) -> Verifier:
        return cls(UrlKeys(url), **options)

    async def aclose(self) -> None:
        await self._keys.aclose()

    def jwks(self) -> dict[str, Any]:
        """The keys that are trusted now, for those who verify elsewhere."""
        self._keys.refresh()
        return to_jwks(self._keys.keys)

    async def verify(self, token: str, *, grace_s: float = 0.0) -> Caller:
        """Who the token speaks for, or ServiceError TOKEN_*; with a grace also one that
        has expired so lately."""
        if not token:
            raise ServiceError(
                Reason.TOKEN_MISSING,
                "cannot tell who is calling: send `authorization: Bearer <token>`",
            )
        if len(token) > TOKEN_BYTES_MAX:
            raise _invalid(f"it is longer than {TOKEN_BYTES_MAX} bytes")
        self._keys.refresh()
        if self._keys.version != self._keys_version:
            self._remembered.clear()
            self._keys_version = self._keys.version
        digest = hashlib.sha256(token.encode("utf-8", "replace")).digest()
        caller = self._remembered.get(digest)
        if caller is None:
            caller = await self._prove(token)
            self._remember(digest, caller)
        self._check_time(caller, grace_s)
        self.check_revoked(caller)
        return caller

    def check_revoked(self, caller: Caller) -> None:
        """Raises TOKEN_REVOKED; what lasts asks again and again."""
        check_revoked(self._revocations, caller)

    def check_good(self, caller: Caller) -> None:
        """Raises TOKEN_EXPIRED as well, for what may last for ever."""
        self._check_time(caller, 0.0)
        self.check_revoked(caller)

    def left_s(self, caller: Caller) -> float:
        """For how long the token will be taken yet."""
        left = caller.expires_at - self._clock.now()
        return max(left.total_seconds() + LEEWAY_S, 0.0)

    async def check_known(self) -> None:
        """Raises while nobody can be let in; for health."""
        if self._revocations.unknown:
            raise ServiceError(Reason.KEYS_UNAVAILABLE, self._revocations.complaint())

    async def check_following(self) -> None:
        """Raises while it is not known what was revoked lately; for health."""
        if complaint := self._revocations.complaint():
            raise ServiceError(Reason.KEYS_UNAVAILABLE, complaint)

    def _remember(self, digest: bytes, caller: Caller) -> None:
        self._remembered[digest] = caller
        while len(self._remembered) > REMEMBERED_MAX:
            self._remembered.popitem(last=False)

    async def _prove(self, token: str) -> Caller:
        try:
            header = jwt.get_unverified_header(token)
        except _UNREADABLE as error:
            raise _invalid("it is not a JWT") from error
        algorithm, kid = header.get("alg"), header.get("kid")
        if algorithm == _HS256 and self._hs256_secret is not None:
            return self._decode(token, self._hs256_secret, _HS256)
        if algorithm != ALGORITHM:
            raise _invalid(f"it is not signed with {ALGORITHM}")
        if not isinstance(kid, str) or not kid:
            raise _invalid("it names no key")
        key = await self._keys.find(kid)
        if key is None:
            raise _invalid("it is signed by a key that is not trusted here")
        return self._decode(token, key, ALGORITHM)

    def _decode(self, token: str, key: Any, algorithm: str) -> Caller:
        # Tokens minted elsewhere with the shared secret name no audience; one that
        # names another service's is refused all the same. Times are checked by our
        # own clock, here and each time the token is seen again.
        audience_needed = algorithm != _HS256
        try:
            claims = jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                options={
                    "verify_aud": False,
                    "verify_exp": False,
                    "verify_iat": False,
                    "verify_nbf": False,
                    "require": ["exp", "iat"],
                },
            )
            _check_audience(claims, needed=audience_needed)
            caller = _caller(claims, token)
            starts_at = _time(claims.get("nbf", claims["iat"]))
        except jwt.MissingRequiredClaimError as error:
            missing = str(error.claim)
            raise _invalid(f"it has no {missing}", missing_claim=missing) from error
        except _UNREADABLE as error:
            raise _invalid(f"it does not verify: {type(error).__name__}") from error
        ahead_s = (max(starts_at, caller.issued_at) - self._clock.now()).total_seconds()
        if ahead_s > LEEWAY_S:
            raise _invalid("it is not valid yet; compare the clocks")
        return caller

    def _check_time(self, caller: Caller, grace_s: float) -> None:
        over_s = (self._clock.now() - caller.expires_at).total_seconds()
        if over_s >= LEEWAY_S + grace_s:
            raise token_expired(caller)


def token_expired(caller: Caller) -> ServiceError:
    return ServiceError(
        Reason.TOKEN_EXPIRED,
        f"cannot use a token that expired at {caller.expires_at:%FT%TZ}: get a new one",
        expired_at=f"{caller.expires_at:%FT%TZ}",
    )


def _invalid(why: str, **metadata: str) -> ServiceError:
    text = f"cannot use this token, {why}: get a new one"
    return ServiceError(Reason.TOKEN_INVALID, text, **metadata)


def _check_audience(claims: Mapping[str, Any], *, needed: bool) -> None:
    audience = claims.get("aud")
    if audience is None and not needed:
        return
    given = [audience] if isinstance(audience, str) else audience
    if not isinstance(given, list) or AUDIENCE not in given:
        raise jwt.InvalidAudienceError


def _caller(claims: Mapping[str, Any], token: str) -> Caller:
    kind = _kind(claims)
    agent = _id(claims.get("agentId"), "agent") if kind is Kind.AGENT else None
    rig = _text(claims, "rigId") if kind is Kind.AGENT else None
    generation = claims.get("gen", 0)
    if not isinstance(generation, int) or isinstance(generation, bool):
        raise ValueError("gen")
    user = claims.get("userId")
    issued_at, expires_at = _time(claims["iat"]), _time(claims["exp"])
    if (expires_at - issued_at).total_seconds() > LIFE_MAX_S:
        # Nobody would remember for so long that it was revoked.
        raise ValueError("exp")
    return Caller(
        kind=kind,
        towns=_towns(claims, kind),
        rig=rig,
        agent=agent,
        user=_text(claims, "userId") if kind is Kind.USER or user else None,
        token_id=str(claims.get("jti") or id_of_unnamed(token)),
        issued_at=issued_at,
        expires_at=expires_at,
        generation=generation or int(claims["iat"]),
        run=_text(claims, "runId") if claims.get("runId") is not None else "",
        family=_text(claims, "family") if claims.get("family") is not None else "",
    )


def id_of_unnamed(token: str) -> str:
    """By which a token without a `jti` is told of, and revoked."""
    return hashlib.sha256(token.encode()).hexdigest()


def _kind(claims: Mapping[str, Any]) -> Kind:
    # The original's agent tokens have no scope and an agent id.
    scope = claims.get("scope")
    if scope is None and "agentId" in claims:
        return Kind.AGENT
    return Kind(str(scope))


def _towns(claims: Mapping[str, Any], kind: Kind) -> frozenset[str]:
    towns = claims.get("towns", [])
    if kind in (Kind.CONTAINER, Kind.AGENT) or "townId" in claims:
        towns = [claims.get("townId")]
    if not isinstance(towns, list) or not towns:
        raise ValueError("towns")
    if kind in EVERYWHERE and towns == [ANY_TOWN]:
        return frozenset(towns)
    return frozenset(_id(town, "town") for town in towns)


def _id(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise TypeError(what)
    try:
        return check_id(value, what)
    except ServiceError as error:
        raise ValueError(what) from error


def _text(claims: Mapping[str, Any], name: str) -> str:
    value = claims.get(name)
    if not isinstance(value, str) or not value:
        raise ValueError(name)
    return value


def _time(value: object) -> datetime:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError("time")
    return datetime.fromtimestamp(value, UTC)
