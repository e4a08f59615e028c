"""What is shown of agents to whoever watches from outside."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

from prometheus_client import generate_latest

from services.chassis.names import AgentName
from services.chassis.telemetry import REGISTRY
from services.supervisor.metrics import shown
from services.supervisor.roster import Roster


@dataclass
class Agents:
    """A roster, as far as metrics look at it."""

    agents: list[Any] = field(default_factory=list)

    def add(self, name: str, lag_s: float, run: Any) -> None:
        agent = AgentName("town-1", name)
        self.agents.append(SimpleNamespace(name=agent, lag_s=lag_s, run=run))


def exposed() -> list[str]:
    return generate_latest(REGISTRY).decode().splitlines()


def test_how_far_saves_are_behind() -> None:
    """One line an agent; of one that never ran, only that nothing waits."""
    saved = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    roster = Agents()
    roster.add("busy", 2.5, SimpleNamespace(saved_at=saved, generation=7))
    roster.add("new", 0.0, None)

    with shown(cast(Roster, roster)):
        lines = exposed()

    busy = '{agent="busy",town="town-1"}'
    assert f"townkeeper_save_lag_seconds{busy} 2.5" in lines
    assert f"townkeeper_saved_generation{busy} 7.0" in lines
    assert f"townkeeper_saved_timestamp_seconds{busy} 1.767323045e+09" in lines
    new = '{agent="new",town="town-1"}'
    assert [f"townkeeper_save_lag_seconds{new} 0.0"] == [
        one for one in lines if new in one
    ]
    assert not [one for one in exposed() if "save_lag" in one]


def test_an_agent_that_is_gone_leaves_no_last_value() -> None:
    """An alert must not fire for ever."""
    roster = Agents()
    roster.add("busy", 2.5, None)
    with shown(cast(Roster, roster)):
        roster.agents.clear()

        assert not [one for one in exposed() if "busy" in one]
