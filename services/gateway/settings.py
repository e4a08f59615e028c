"""What the gateway is told by its environment."""

from __future__ import annotations

from dataclasses import dataclass

from services.chassis import parsers
from services.chassis.revocation_client import ServiceTokenSettings
from services.chassis.settings import group, var
from services.chassis.tls import TlsSettings
from services.chassis.trust import TrustSettings


@dataclass(frozen=True, slots=True)
class Settings:
    """With a certificate the gateway speaks HTTPS, else HTTP."""

    address: str = var(
        "TOWNKEEPER_GATEWAY_ADDR",
        parsers.listen_address,
        default="127.0.0.1:8080",
        help="where HTTP clients reach the gateway",
        example="0.0.0.0:8080",
    )
    registry: str = var(
        "TOWNKEEPER_REGISTRY_ADDR",
        parsers.address,
        help="where the registry answers",
        example="registry:50051",
    )
    snapshots: str = var(
        "TOWNKEEPER_SNAPSHOTS_ADDR",
        parsers.address,
        help="where the snapshot service answers",
        example="snapshots:50052",
    )
    trust: TrustSettings = group(TrustSettings)
    service: ServiceTokenSettings = group(ServiceTokenSettings)
    tls: TlsSettings = group(TlsSettings)
