"""The registry as a process: settings → store → servicer → serve."""

from __future__ import annotations

import asyncio
import os
import sys

from services.chassis.errors import ServiceError
from services.chassis.keys import KeysError
from services.chassis.memory import keep_few_heaps
from services.chassis.metrics import serving_metrics
from services.chassis.redis_pool import connect
from services.chassis.revocations import RevocationList
from services.chassis.server import BindError, Server, run_until_signal
from services.chassis.settings import SettingsError, load
from services.chassis.tasks import ended
from services.chassis.telemetry import configure_logging
from services.registry.issuer import Issuer
from services.registry.policy import POLICY, SERVICE
from services.registry.redis_store import opened
from services.registry.redis_town import Terms
from services.registry.revocation_feed import RevocationFeed
from services.registry.servicer import RegistryServicer
from services.registry.settings import RegistrySettings
from townkeeper.registry.v1.registry_pb2_grpc import (
    add_RegistryServiceServicer_to_server,
)


async def serve(settings: RegistrySettings) -> None:
    """Serves until a signal; raises what keeps it from starting."""
    known = RevocationList(followed=True)
    verifier = settings.trust.verifier(known)
    specs, issuer = settings.stored_specs(), Issuer(settings.signing_keys())
    redis = await connect(settings.redis.url)
    try:
        async with opened(
            redis,
            environment=settings.environment,
            terms=Terms(ttl_s=settings.lease_ttl_s),
            replicas=settings.redis.replicas,
            vouched=settings.redis.vouched,
            specs=specs,
        ) as store:
            feed = RevocationFeed(store, known)
            # First: whoever is revoked must not get in meanwhile.
            await feed.refresh()
            server = Server(
                settings.address, POLICY, verifier, [SERVICE], tls=settings.tls
            )
            servicer = RegistryServicer(
                store,
                verifier.jwks,
                feed,
                issuer=issuer,
                ttl_s=settings.lease_ttl_s,
                heartbeat_interval_s=settings.heartbeat_interval_s,
            )
            add_RegistryServiceServicer_to_server(servicer, server.grpc)
            server.health.register("redis", store.check)
            server.health.note("revocations", verifier.check_following)
            with serving_metrics(settings.metrics):
                following = asyncio.create_task(feed.run(), name="revocations")
                try:
                    await run_until_signal(server)
                finally:
                    await ended(following)
    finally:
        await redis.aclose()


def main() -> int:
    keep_few_heaps()
    configure_logging("registry")
    try:
        asyncio.run(serve(load(RegistrySettings, os.environ)))
    except (SettingsError, KeysError, BindError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except ServiceError as error:
        sys.stderr.write(f"{error.message}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
