"""What metrics say of each agent: how far its saves are behind, and what they hold."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from services.chassis.telemetry import REGISTRY
from services.supervisor.roster import Roster


@dataclass(frozen=True, slots=True, eq=False)
class AgentMetrics(Collector):
    """Read when somebody asks: an agent that is gone leaves no last value behind."""

    roster: Roster

    def collect(self) -> Iterator[Metric]:
        labels = ["town", "agent"]
        lag = GaugeMetricFamily(
            "townkeeper_save_lag_seconds",
            "For how long changes of the session have been waiting to be durable.",
            labels=labels,
        )
        saved = GaugeMetricFamily(
            "townkeeper_saved_timestamp_seconds",
            "When the newest durable generation was committed, since 1970.",
            labels=labels,
        )
        generation = GaugeMetricFamily(
            "townkeeper_saved_generation",
            "The newest durable generation of the session.",
            labels=labels,
        )
        for agent in self.roster.agents:
            whose = [agent.name.town, agent.name.agent]
            lag.add_metric(whose, agent.lag_s)
            if agent.run is not None and agent.run.saved_at is not None:
                saved.add_metric(whose, agent.run.saved_at.timestamp())
                generation.add_metric(whose, agent.run.generation)
        yield from (lag, saved, generation)


@contextmanager
def shown(roster: Roster) -> Iterator[None]:
    """The agents are part of the process's metrics meanwhile."""
    metrics = AgentMetrics(roster)
    REGISTRY.register(metrics)
    try:
        yield
    finally:
        REGISTRY.unregister(metrics)
