"""The snapshot service's process: settings → stores → serve → leave."""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Final

from services.chassis.clock import SystemClock
from services.chassis.errors import ServiceError
from services.chassis.keys import KeysError
from services.chassis.memory import keep_few_heaps
from services.chassis.metrics import serving_metrics
from services.chassis.redis_pool import Durability, connect
from services.chassis.revocation_client import following
from services.chassis.server import BindError, Server, run_until_signal
from services.chassis.settings import SettingsError, load
from services.chassis.tasks import ended
from services.chassis.telemetry import configure_logging
from services.snapshots.assembly import assemble
from services.snapshots.policy import POLICY
from services.snapshots.redis_catalog import RedisCatalog
from services.snapshots.redis_rot import RedisRot
from services.snapshots.servicer import SnapshotServicer
from services.snapshots.settings import Settings
from services.snapshots.stores import open_stores
from townkeeper.snapshots.v1 import snapshots_pb2, snapshots_pb2_grpc

SERVICE: Final = snapshots_pb2.DESCRIPTOR.services_by_name["SnapshotService"]


async def serve(settings: Settings) -> None:
    """Serves until a signal."""
    async with AsyncExitStack() as stack:
        known = settings.service.revocations()
        verifier = settings.trust.verifier(known)
        server = Server(
            settings.address,
            POLICY,
            verifier,
            [SERVICE.full_name],
            tls=settings.tls,
        )
        clock = SystemClock()
        redis = await connect(settings.redis.url)
        stack.push_async_callback(redis.aclose)
        durability = Durability(redis, vouched=settings.redis.vouched)
        catalog = RedisCatalog(redis, durability, replicas=settings.redis.replicas)
        stores = await open_stores(settings, redis, durability, clock, stack)
        await catalog.pair(stores.blobs.store_id)
        parts = assemble(
            stores.blobs,
            catalog,
            stores.staging,
            stores.upkeep,
            RedisRot(redis),
            stores.scratch,
            clock,
            size_bytes_max=settings.snapshot_bytes_max,
            purge_after_s=settings.purge_after_s,
            scrub_period_s=timedelta(days=settings.scrub_days).total_seconds(),
        )
        stack.push_async_callback(parts.intake.close)
        server.health.register("redis", catalog.check)
        server.health.register("blobs", stores.blobs.check)
        server.health.register("tokens", verifier.check_known)
        server.health.note("revocations", verifier.check_following)
        await stack.enter_async_context(
            following(settings.service, settings.registry, known, settings.tls)
        )
        snapshots_pb2_grpc.add_SnapshotServiceServicer_to_server(
            SnapshotServicer(parts),
            server.grpc,
        )
        stack.enter_context(serving_metrics(settings.metrics))
        await parts.sweeper.start()
        await parts.scrubber.start()
        for name, task in (
            ("sweep", parts.sweeper.run()),
            ("compact", parts.compactor.run()),
            ("scrub", parts.scrubber.run()),
        ):
            stack.push_async_callback(ended, asyncio.create_task(task, name=name))
        await run_until_signal(server)


def main() -> int:
    keep_few_heaps()
    configure_logging("snapshots")
    try:
        asyncio.run(serve(load(Settings, os.environ)))
    except (SettingsError, KeysError, BindError, ServiceError) as error:
        sys.stderr.write(f"townkeeper snapshots: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
