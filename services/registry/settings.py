"""What the registry reads from its environment."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from services.chassis.key_files import KeysError, key_files
from services.chassis.keys import KeyRing
from services.chassis.metrics import MetricsSettings
from services.chassis.parsers import (
    duration,
    listen_address,
    one_of,
    readable_directory,
    text,
)
from services.chassis.redis_pool import RedisSettings
from services.chassis.sealing import SealingKeys, sealing_files
from services.chassis.settings import group, var
from services.chassis.tls import TlsSettings
from services.chassis.trust import TrustSettings
from services.registry.leases import HEARTBEAT_INTERVAL_S, TTL_S
from services.registry.redis_specs import StoredSpecs


@dataclass(frozen=True, slots=True)
class RegistrySettings:
    """Where it listens, where it stores, how long a lease lasts."""

    address: str = var(
        "TOWNKEEPER_REGISTRY_ADDR",
        listen_address,
        default="127.0.0.1:50051",
        help="where the registry listens",
    )
    environment: str = var(
        "TOWNKEEPER_ENVIRONMENT",
        text,
        default="development",
        help="the name that marks the store as this environment's",
        example="production",
    )
    lease_ttl_s: float = var(
        "TOWNKEEPER_LEASE_TTL",
        duration,
        default=TTL_S,
        help="how long an instance that is not heard of keeps its agents",
        example="10s",
    )
    heartbeat_interval_s: float = var(
        "TOWNKEEPER_HEARTBEAT_INTERVAL",
        duration,
        default=HEARTBEAT_INTERVAL_S,
        help="how often an instance should be heard of",
        example="2s",
    )
    signing_keys_dir: Path | None = var(
        "TOWNKEEPER_SIGNING_KEYS_DIR",
        readable_directory,
        default=None,
        help="the folder with the private keys that the registry signs agents' tokens"
        " with; else those of TOWNKEEPER_KEYS_DIR, if it holds any",
    )
    sealing_keys_dir: Path | None = var(
        "TOWNKEEPER_SEALING_KEYS_DIR",
        readable_directory,
        default=None,
        help="the folder with the keys that the secrets of agents are sealed with; else"
        " those of TOWNKEEPER_KEYS_DIR",
    )
    sealing: str = var(
        "TOWNKEEPER_SEALING",
        one_of("required", "off"),
        default="required",
        help="`off` where Redis may hold the secrets of agents in clear",
    )
    redis: RedisSettings = group(RedisSettings)
    trust: TrustSettings = group(TrustSettings)
    tls: TlsSettings = group(TlsSettings)
    metrics: MetricsSettings = group(MetricsSettings)

    def signing_keys(self) -> Path | None:
        """The folder to sign with. Raises KeysError when it was named and is of no
        use."""
        if self.signing_keys_dir is not None:
            return KeyRing.load(self.signing_keys_dir).folder
        trusted = self.trust.keys_dir
        return trusted if trusted is not None and key_files(trusted) else None

    def stored_specs(self) -> StoredSpecs:
        """How specs are stored. Raises KeysError when they must be sealed and cannot
        be."""
        folder = self.sealing_keys_dir or self.trust.keys_dir
        if folder is not None and sealing_files(folder):
            keys = SealingKeys(folder)
            return StoredSpecs(keys, seals=self.sealing == "required")
        if self.sealing == "off":
            return StoredSpecs()
        raise KeysError(
            f"cannot seal the secrets of agents: {folder or 'no folder'} holds no"
            " sealing key; make one with `townkeeper keys rotate --sealing` and name"
            " its folder in TOWNKEEPER_SEALING_KEYS_DIR, or set TOWNKEEPER_SEALING=off"
        )

    def problems(self) -> list[str]:
        if self.lease_ttl_s >= 3 * self.heartbeat_interval_s:
            return []
        # One lost heartbeat must not cost a lease.
        return [
            "TOWNKEEPER_LEASE_TTL: give at least three times "
            "TOWNKEEPER_HEARTBEAT_INTERVAL"
        ]
