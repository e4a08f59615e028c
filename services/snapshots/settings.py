"""What the snapshot service is told by its environment."""

from __future__ import annotations

from dataclasses import dataclass

from services.chassis.metrics import MetricsSettings
from services.chassis.parsers import (
    BlobUrl,
    blob_url,
    duration,
    listen_address,
    natural_int,
    positive_int,
)
from services.chassis.parsers import address as address_to_call
from services.chassis.parsers import text as any_text
from services.chassis.redis_pool import RedisSettings
from services.chassis.revocation_client import ServiceTokenSettings
from services.chassis.settings import group, var
from services.chassis.tls import TlsSettings
from services.chassis.trust import TrustSettings
from services.snapshots.amendment import PURGE_AFTER_S
from services.snapshots.s3_settings import S3Settings, on_s3


@dataclass(frozen=True, slots=True)
class Settings:
    """One snapshot service and the stores behind it."""

    address: str = var(
        "TOWNKEEPER_SNAPSHOTS_ADDR",
        listen_address,
        default="127.0.0.1:50052",
        help="where the snapshot service listens; port 0 asks for a free one",
    )
    blobs: BlobUrl = var(
        "TOWNKEEPER_BLOB_URL", blob_url, help="where segments and records are kept"
    )
    environment: str = var(
        "TOWNKEEPER_ENVIRONMENT",
        any_text,
        default="development",
        help="the name that the blob store is marked with; a store with another mark"
        " is refused",
        example="production",
    )
    snapshot_bytes_max: int = var(
        "TOWNKEEPER_SNAPSHOT_BYTES_MAX",
        positive_int,
        default=64 << 30,
        help="the largest upload and the largest database, in bytes",
        example="68719476736",
    )
    purge_after_s: float = var(
        "TOWNKEEPER_PURGE_AFTER",
        duration,
        default=PURGE_AFTER_S,
        help="how long a generation that was deleted can be brought back",
        example="7d",
    )
    scrub_days: int = var(
        "TOWNKEEPER_SCRUB_DAYS",
        natural_int,
        default=7,
        help="within how many days every stored segment is read again and checked;"
        " 0: never",
    )
    registry: str | None = var(
        "TOWNKEEPER_REGISTRY_ADDR",
        address_to_call,
        default=None,
        help="where the registry answers, which says what tokens were revoked",
        example="registry:50051",
    )
    s3: S3Settings | None = group(S3Settings, when=on_s3)
    redis: RedisSettings = group(RedisSettings)
    trust: TrustSettings = group(TrustSettings)
    service: ServiceTokenSettings = group(ServiceTokenSettings)
    tls: TlsSettings = group(TlsSettings)
    metrics: MetricsSettings = group(MetricsSettings)

    def problems(self) -> list[str]:
        if self.service.token_file is None or self.registry is not None:
            return []
        return [
            "TOWNKEEPER_SERVICE_TOKEN_FILE: give TOWNKEEPER_REGISTRY_ADDR as well, for"
            " whom the token is"
        ]
