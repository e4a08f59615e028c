"""Routes without credentials: probes, metrics, public keys, the description."""

from __future__ import annotations

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.responses import JSONResponse, Response

from services.chassis.errors import ServiceError
from services.chassis.telemetry import REGISTRY
from services.gateway.exchange import Exchange, bare


async def read_root(_: Exchange) -> Response:
    """Says that the gateway is there."""
    # The original's name: its clients look at it.
    return bare({"service": "gastown", "status": "ok"})


async def read_alive(_: Exchange) -> Response:
    """Says that the process is alive."""
    return bare({"status": "ok"})


async def read_ready(exchange: Exchange) -> Response:
    """Tells whether the services that every town needs are serving."""
    failing = await exchange.services.failing()
    try:
        await exchange.verifier.check_known()
    except ServiceError as error:
        failing["tokens"] = error.message
    if failing:
        return bare({"status": "unready", "failing": failing}, 503)
    try:
        await exchange.verifier.check_following()
    except ServiceError as error:
        # Told and no more: every request is answered as well as it can be.
        return bare({"status": "ready", "stale": {"revocations": error.message}})
    return bare({"status": "ready"})


async def read_metrics(_: Exchange) -> Response:
    """Shows counters in Prometheus' format."""
    headers = {"content-type": CONTENT_TYPE_LATEST}
    return Response(generate_latest(REGISTRY), headers=headers)


async def read_keys(exchange: Exchange) -> Response:
    """Publishes the keys that tokens are verified with."""
    headers = {"cache-control": "public, max-age=60"}
    return JSONResponse(exchange.verifier.jwks(), headers=headers)
