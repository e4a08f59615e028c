"""Whose tokens a process believes: settings shared by all services."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from services.chassis.auth import HS256_SECRET_BYTES_MIN, Revocations, Verifier
from services.chassis.key_sources import KeySource
from services.chassis.parsers import existing_file, http_url, readable_directory
from services.chassis.settings import var


@dataclass(frozen=True, slots=True)
class TrustSettings:
    """Public keys from a folder or from a URL, and perhaps a shared secret as well."""

    must_be_given: ClassVar[bool] = True

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

    hs256_secret_file: Path | None = var(
        "TOWNKEEPER_HS256_SECRET_FILE",
        existing_file,
        default=None,
        help="the file with the secret shared with whoever else mints tokens",
        example="/etc/townkeeper/hs256.secret",
    )

    def problems(self) -> list[str]:
        found = []
        given = (self.keys_dir is not None) + (self.jwks_url is not None)
        if given > 1 or (self.must_be_given and not given):
            found.append(
                "TOWNKEEPER_KEYS_DIR and TOWNKEEPER_JWKS_URL: give one of the two"
            )
        secret = self._hs256_secret()
        if secret is not None and len(secret) < HS256_SECRET_BYTES_MIN:
            found.append(
                "TOWNKEEPER_HS256_SECRET_FILE holds a secret under "
                f"{HS256_SECRET_BYTES_MIN} bytes: generate a longer one"
            )
        return found

    def verifier(
        self,
        revocations: Revocations | None = None,
        otherwise: KeySource | None = None,
    ) -> Verifier:
        """Proves tokens with those keys, or with `otherwise` when none are given.

        Raises KeysError when the folder holds none.
        """
        secret = self._hs256_secret()
        if self.keys_dir is None and self.jwks_url is None and otherwise is not None:
            return Verifier(otherwise, revocations=revocations, hs256_secret=secret)
        if self.keys_dir is not None:
            return Verifier.from_directory(
                self.keys_dir, revocations=revocations, hs256_secret=secret
            )
        assert self.jwks_url is not None, "problems() refuses neither"
        return Verifier.from_url(
            self.jwks_url, revocations=revocations, hs256_secret=secret
        )

    def _hs256_secret(self) -> bytes | None:
        file = self.hs256_secret_file
        return file.read_bytes().strip() if file else None


@dataclass(frozen=True, slots=True)
class OptionalTrustSettings(TrustSettings):
    """The same for a process that knows where to ask when it was given neither."""

    must_be_given: ClassVar[bool] = False
