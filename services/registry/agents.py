"""What a town knows of an agent: one record."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from services.chassis.names import AgentName
from services.registry.leases import Lease
from services.registry.specs import AgentSpec

# Records are small and every call that goes over all of them is one script: 10,000
# take some 50 ms.
TOWN_AGENTS_MAX: Final = 10_000


class State(StrEnum):
    """Whether a town wants an agent to run."""

    CONFIGURED = "configured"
    ACTIVE = "active"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Agent:
    """One record. `spec` is None when its entry says no way to start it."""

    name: AgentName
    spec: AgentSpec | None
    state: State
    etag: str
    create_time: datetime
    update_time: datetime
    end_reason: str = ""
    lease: Lease | None = None
    generation: int = 0
    failed_starts_count: int = 0
    last_error: str = ""
    entry_json: str = ""
    pending_messages_count: int = 0


@dataclass(frozen=True, slots=True)
class AgentPage:
    """Some agents in order; `after` continues behind them, empty at the end."""

    agents: tuple[Agent, ...]
    after: str
