"""Metrics on a port of their own, for whoever scrapes a gRPC service."""

from __future__ import annotations

import socket

import httpx
import pytest

from services.chassis.metrics import MetricsSettings, serving_metrics
from services.chassis.server import BindError
from services.chassis.settings import SettingsError, load


def test_they_are_shown_while_the_service_serves() -> None:
    """In Prometheus' format; afterwards the port is free again."""
    with serving_metrics(MetricsSettings(address="127.0.0.1:0")) as address:
        shown = httpx.get(f"http://{address}/metrics", timeout=5)

    assert "townkeeper_calls_in_flight 0.0" in shown.text
    assert "text/plain" in shown.headers["content-type"]
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://{address}/metrics", timeout=5)


def test_without_an_address_nothing_listens() -> None:
    """It is off unless it is asked for."""
    with serving_metrics(load(MetricsSettings, {})) as address:
        assert "" == address


def test_a_taken_port_is_named() -> None:
    """Which setting to change is said."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with (
            pytest.raises(BindError, match=f"{address}.*TOWNKEEPER_METRICS_ADDR"),
            serving_metrics(MetricsSettings(address=address)),
        ):
            raise AssertionError("it serves where another listens")


def test_what_is_no_address() -> None:
    """Refused at the start, with all other bad variables."""
    with pytest.raises(SettingsError, match="TOWNKEEPER_METRICS_ADDR"):
        load(MetricsSettings, {"TOWNKEEPER_METRICS_ADDR": "9464"})
