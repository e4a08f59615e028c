"""What the snapshot service is told of S3, by the names that S3's own tools use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from services.chassis.parsers import directory, existing_file, http_url, positive_int
from services.chassis.parsers import text as any_text
from services.chassis.settings import var


@dataclass(frozen=True, slots=True)
class S3Settings:
    """Where S3 is, who we are there, and the disk for copies of what is read."""

    endpoint: str | None = var(
        "AWS_ENDPOINT_URL",
        http_url,
        default=None,
        help="the S3 service to use where it is not Amazon's",
        example="https://s3.example.org",
    )
    region: str = var(
        "AWS_REGION", any_text, default="us-east-1", help="the region of the bucket"
    )
    access_key_id: str | None = var(
        "AWS_ACCESS_KEY_ID",
        any_text,
        default=None,
        help="the key that may use the bucket",
    )
    secret_access_key: str | None = var(
        "AWS_SECRET_ACCESS_KEY",
        any_text,
        default=None,
        help="the secret that belongs to AWS_ACCESS_KEY_ID",
    )
    session_token: str | None = var(
        "AWS_SESSION_TOKEN",
        any_text,
        default=None,
        help="the token that belongs to a temporary AWS_ACCESS_KEY_ID",
    )
    ca: Path | None = var(
        "AWS_CA_BUNDLE",
        existing_file,
        default=None,
        help="authorities that may sign the S3 service's certificate (PEM)",
    )
    cache_folder: Path | None = var(
        "TOWNKEEPER_CACHE_DIR",
        directory,
        default=None,
        help="the local folder for copies of segments",
        example="/var/cache/townkeeper",
    )
    cache_bytes: int = var(
        "TOWNKEEPER_CACHE_BYTES",
        positive_int,
        default=8 << 30,
        help="how much of the local disk copies of segments may take, in bytes",
        example="8589934592",
    )

    def problems(self) -> list[str]:
        given = {
            "AWS_ACCESS_KEY_ID": self.access_key_id,
            "AWS_SECRET_ACCESS_KEY": self.secret_access_key,
        }
        missing = [name for name, value in given.items() if value is None]
        if len(missing) != 1 and not (missing and self.session_token):
            return []
        return [f"{name} is missing: give both halves of the key" for name in missing]


def on_s3(environ: Mapping[str, str]) -> bool:
    """Whether settings of S3 are looked at: other programs use the same names."""
    return environ.get("TOWNKEEPER_BLOB_URL", "").strip().startswith("s3:")
