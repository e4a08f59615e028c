"""Tokens good and bad: every way in which a credential can be wrong."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import jwt

from services.chassis.auth import Kind, Verifier
from services.chassis.clock import Clock
from services.chassis.key_sources import DirectoryKeys
from services.chassis.keys import AUDIENCE, KeyRing
from services.chassis.revocations import RevocationList, Revoked

TOWN = "town-1"
FOREIGN_TOWN = "town-2"
RIG = "rig-1"
AGENT = "mayor"
OTHER_AGENT = "polecat-1"
USER = "user-1"
REVOKED_ID = "revoked-1"


def revocations() -> RevocationList:
    """A list with one token on it, that of `Tokens.revoked`."""
    known = RevocationList()
    known.update(TOWN, Revoked(frozenset({REVOKED_ID})))
    return known


class Tokens:
    """Mints for one keys folder; `verifier()` trusts that folder."""

    def __init__(self, folder: Path, clock: Clock | None = None) -> None:
        self.folder = folder / "keys"
        self.clock = clock
        self.ring = KeyRing.create(self.folder, clock)
        # Made in a folder that no verifier looks at.
        self.foreign_ring = KeyRing.create(folder / "foreign-keys", clock)

    def verifier(self, **options: Any) -> Verifier:
        keys = DirectoryKeys(self.folder, self.clock)
        return Verifier(keys, clock=self.clock, **options)

    def container(self, town: str = TOWN, **options: Any) -> str:
        return self.ring.mint(Kind.CONTAINER, town=town, **options)

    def agent(
        self, agent: str = AGENT, town: str = TOWN, rig: str = RIG, **options: Any
    ) -> str:
        return self.ring.mint(Kind.AGENT, town=town, rig=rig, agent=agent, **options)

    def user(self, *towns: str, **options: Any) -> str:
        return self.ring.mint(Kind.USER, towns=towns or [TOWN], user=USER, **options)

    def operator(self, *towns: str, **options: Any) -> str:
        return self.ring.mint(Kind.OPERATOR, towns=towns or ["*"], **options)

    def service(self, *towns: str, **options: Any) -> str:
        return self.ring.mint(Kind.SERVICE, towns=towns or ["*"], **options)

    def of_kind(self, kind: Kind, town: str = TOWN) -> str:
        """A valid token of any kind for one town."""
        match kind:
            case Kind.CONTAINER:
                return self.container(town)
            case Kind.AGENT:
                return self.agent(town=town)
            case Kind.USER:
                return self.user(town)
            case Kind.OPERATOR:
                return self.operator(town)
            case Kind.SERVICE:
                return self.service(town)

    def expired(self, kind: Kind = Kind.CONTAINER) -> str:
        """Ten seconds past its time, which is more than the leeway."""
        return self._minted(kind, self.ring, ttl_s=-10)

    def foreign_key(self, kind: Kind = Kind.CONTAINER) -> str:
        """Right in everything but signed by a stranger."""
        return self._minted(kind, self.foreign_ring)

    def foreign_key_known_kid(self) -> str:
        """Signed by a stranger who claims to be our key."""
        return self.signed(self.claims(), key=self.foreign_ring.keys[-1][1])

    def foreign_town(self, kind: Kind = Kind.CONTAINER) -> str:
        return self._minted(kind, self.ring, town=FOREIGN_TOWN)

    def wrong_audience(self) -> str:
        return self.signed(self.claims(aud="somebody-else"))

    def no_audience(self) -> str:
        claims = self.claims()
        del claims["aud"]
        return self.signed(claims)

    def algorithm_none(self) -> str:
        """Unsigned, and says so."""
        header = {"alg": "none", "typ": "JWT", "kid": self.ring.kid}
        return f"{_part(header)}.{_part(self.claims())}."

    def unsigned(self) -> str:
        """A good token whose signature was cut off."""
        return self.container().rpartition(".")[0] + "."

    def hs256_with_public_key(self) -> str:
        """The classic confusion: our public key used as a shared secret."""
        key = self.ring.jwks()["keys"][-1]["x"].encode()
        header = {"kid": self.ring.kid}
        return jwt.encode(self.claims(), key, algorithm="HS256", headers=header)

    def tampered(self) -> str:
        """A good token for another town, its payload swapped."""
        header, _, signature = self.container().split(".")
        return f"{header}.{_part(self.claims(townId=FOREIGN_TOWN))}.{signature}"

    def oversized(self) -> str:
        """Valid in all but length: beyond 8 KiB."""
        return self.signed(self.claims(padding="x" * 8192))

    def revoked(self, **claims: Any) -> str:
        """Good in all but that its id is on the list of `revocations`."""
        return self.signed(self.claims(jti=REVOKED_ID, **claims))

    def claims(self, **changes: Any) -> dict[str, Any]:
        """The claims of a good container token, changed as asked."""
        decoded = jwt.decode(self.container(), options={"verify_signature": False})
        return {**decoded, "aud": AUDIENCE, **changes}

    def signed(self, claims: dict[str, Any], *, key: Any = None) -> str:
        """Any claims at all, signed with our own newest key."""
        kid, own = self.ring.keys[-1]
        return jwt.encode(claims, key or own, algorithm="EdDSA", headers={"kid": kid})

    def _minted(
        self, kind: Kind, ring: KeyRing, town: str = TOWN, **options: Any
    ) -> str:
        if kind in (Kind.USER, Kind.OPERATOR, Kind.SERVICE):
            return ring.mint(kind, towns=[town], user=USER, **options)
        if kind is Kind.AGENT:
            return ring.mint(kind, town=town, rig=RIG, agent=AGENT, **options)
        return ring.mint(kind, town=town, **options)


def _part(value: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


MALFORMED = [
    "not-a-token",
    "a.b.c",
    "....",
    "eyJhbGciOiJFZERTQSJ9..",
    # A header nested deeper than the JSON decoder goes.
    base64.urlsafe_b64encode(b"[" * 5000).decode() + ".e30.",
    "\N{LATIN SMALL LETTER E WITH ACUTE}.e30.e30",
]
