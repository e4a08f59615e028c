"""Metrics of a gRPC service over HTTP, in Prometheus' format, on their own port."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from prometheus_client import start_http_server

from services.chassis.parsers import listen_address
from services.chassis.server import BindError
from services.chassis.settings import var
from services.chassis.telemetry import REGISTRY


@dataclass(frozen=True, slots=True)
class MetricsSettings:
    """Without an address nothing listens."""

    address: str = var(
        "TOWNKEEPER_METRICS_ADDR",
        listen_address,
        default="",
        help="where this process shows its metrics, over HTTP in clear and without"
        " credentials",
        example="127.0.0.1:9464",
    )


@contextmanager
def serving_metrics(settings: MetricsSettings) -> Iterator[str]:
    """Answers `GET /metrics` meanwhile, at this address. Raises BindError."""
    if not settings.address:
        yield ""
        return
    host, _, port = settings.address.rpartition(":")
    try:
        server, thread = start_http_server(int(port), host.strip("[]"), REGISTRY)
    except OSError as error:
        raise BindError(
            f"cannot show metrics on {settings.address} ({error.strerror}): choose"
            " another TOWNKEEPER_METRICS_ADDR"
        ) from error
    try:
        yield f"{host}:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
