"""The gateway's process: settings → channels and keys → serve until a signal."""

from __future__ import annotations

import asyncio
import os
import sys

from services.chassis.errors import ServiceError
from services.chassis.keys import KeysError
from services.chassis.memory import keep_few_heaps
from services.chassis.revocation_client import following
from services.chassis.server import BindError
from services.chassis.settings import SettingsError, load
from services.chassis.telemetry import configure_logging
from services.gateway.app import Gateway
from services.gateway.clients import Services
from services.gateway.listener import Listener
from services.gateway.settings import Settings


async def serve(settings: Settings) -> None:
    """One gateway's life."""
    known = settings.service.revocations()
    verifier = settings.trust.verifier(known)
    listener = Listener(settings.address, settings.tls)
    services = Services(settings.registry, settings.snapshots, settings.tls)
    try:
        async with following(settings.service, settings.registry, known, settings.tls):
            await listener.run(Gateway(services, verifier))
    finally:
        listener.close()
        await services.close()
        await verifier.aclose()


def main() -> int:
    """Runs until SIGTERM; 0 after an orderly stop."""
    keep_few_heaps()
    configure_logging("gateway")
    try:
        asyncio.run(serve(load(Settings, os.environ)))
    except (SettingsError, KeysError, BindError, ServiceError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
