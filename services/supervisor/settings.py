"""What a supervisor is told by its environment."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path

from services.chassis.metrics import MetricsSettings
from services.chassis.parsers import (
    address as address_to_call,
)
from services.chassis.parsers import (
    directory,
    duration,
    executable,
    instance_id,
    listen_address,
    natural_int,
    one_of,
    text,
    town_id,
)
from services.chassis.settings import group, var
from services.chassis.tls import TlsSettings
from services.chassis.trust import OptionalTrustSettings
from services.supervisor.exec_runtime import ExecPolicy


def _default_slot() -> str:
    return "".join(
        c if c.isalnum() or c in "._-" else "-" for c in socket.gethostname()
    )


@dataclass(frozen=True, slots=True)
class Settings:
    """One supervisor, in one container, of one town."""

    address: str = var(
        "TOWNKEEPER_SUPERVISOR_ADDR",
        listen_address,
        default="127.0.0.1:50053",
        help="where this supervisor listens and what it registers; port 0 asks for a"
        " free one",
    )
    registry: str = var(
        "TOWNKEEPER_REGISTRY_ADDR",
        address_to_call,
        default="127.0.0.1:50051",
        help="where the registry answers",
    )
    snapshots: str = var(
        "TOWNKEEPER_SNAPSHOTS_ADDR",
        address_to_call,
        default="127.0.0.1:50052",
        help="where the snapshot service answers",
        example="snapshots:50052",
    )
    data_dir: Path = var(
        "TOWNKEEPER_DATA_DIR",
        directory,
        help="the folder for agent homes and workspaces; it may die with the container",
    )
    town: str = var(
        "GASTOWN_TOWN_ID", town_id, help="the town that this container serves"
    )
    container_token: str = var(
        "GASTOWN_CONTAINER_TOKEN",
        text,
        help="the container token of the town (townkeeper token mint)",
    )
    slot: str = var(
        "TOWNKEEPER_INSTANCE",
        instance_id,
        default="",
        help="the stable name of this container, the same after a restart; the host"
        " name if not given",
        example="supervisor-0",
    )
    capacity: int = var(
        "TOWNKEEPER_CAPACITY",
        natural_int,
        default=0,
        help="how many agents this container is for; claims are spread by it, starts by"
        " name are never refused; 0 means no limit",
        example="20",
    )
    drain_budget_s: float = var(
        "TOWNKEEPER_DRAIN_BUDGET",
        duration,
        default=600.0,
        help="how long the container may take to end at SIGTERM; what works may end its"
        " turn in that time, less 50 s in which what does not is ended and saved",
        example="10m",
    )
    on_lease_unknown: str = var(
        "TOWNKEEPER_ON_LEASE_UNKNOWN",
        one_of("freeze", "continue"),
        default="freeze",
        help="what agents do when the registry cannot be reached until their leases may"
        " be others': `freeze` stops their processes until it can, where the town has"
        " other instances; `continue` lets two run for a while",
    )
    exec_policy: ExecPolicy = var(
        "TOWNKEEPER_EXEC",
        ExecPolicy.parse,
        default=ExecPolicy.parse(""),
        help="the programs that agents of the exec runtime may be: `any`, or absolute"
        " paths with commas between",
        example="/usr/bin/python3,/usr/local/bin/agent",
    )
    kilo: Path | None = var(
        "TOWNKEEPER_KILO_BIN",
        executable,
        default=None,
        help="the kilo executable; else the one that `townkeeper runtime install`"
        " put in place",
    )
    trust: OptionalTrustSettings = group(OptionalTrustSettings)
    tls: TlsSettings = group(TlsSettings)
    metrics: MetricsSettings = group(MetricsSettings)

    @property
    def freezes(self) -> bool:
        """Whether agents stand still when nobody can say whose they are."""
        return self.on_lease_unknown == "freeze"

    @property
    def instance(self) -> str:
        """The slot, with its default filled in."""
        return self.slot or _default_slot()
