"""Public keys as a JSON Web Key Set: the form in which they are published."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from services.chassis.key_files import KeysError

ALGORITHM: Final = "EdDSA"

PublicKeys = Mapping[str, Ed25519PublicKey]


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
