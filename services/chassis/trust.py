"""Whose tokens a process believes: settings shared by all services."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from services.chassis.auth import Verifier
from services.chassis.parsers import http_url, readable_directory
from services.chassis.settings import var


@dataclass(frozen=True, slots=True)
class TrustSettings:
    """Public keys from a folder or from a URL; one of the two."""

    keys_dir: Path | None = var(
        "TOWNKEEPER_KEYS_DIR",
        readable_directory,
        default=None,
        help="the folder with the keys that tokens are signed by",
    )
    jwks_url: str | None = var(
        "TOWNKEEPER_JWKS_URL",
        http_url,
        default=None,
        help="where the gateway or another issuer publishes its keys, instead of a"
        " folder",
        example="http://gateway:8080/.well-known/jwks.json",
    )

    def problems(self) -> list[str]:
        if (self.keys_dir is None) != (self.jwks_url is None):
            return []
        return ["TOWNKEEPER_KEYS_DIR and TOWNKEEPER_JWKS_URL: give one of the two"]

    def verifier(self) -> Verifier:
        """Proves tokens with those keys. Raises KeysError when there are none."""
        if self.keys_dir is not None:
            return Verifier.from_directory(self.keys_dir)
        assert self.jwks_url is not None, "problems() refuses neither"
        return Verifier.from_url(self.jwks_url)
