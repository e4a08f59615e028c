"""What lies behind the service, as its settings say: one folder, or S3 and replicas."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from services.chassis.clock import Clock
from services.chassis.redis_pool import Durability, RedisSettings, Store
from services.chassis.redis_rights import check_rights, commands_of
from services.snapshots.blob_cache import BlobCache
from services.snapshots.file_blobs import FileBlobs
from services.snapshots.file_staging import FileStaging
from services.snapshots.local_disk import LocalDisk
from services.snapshots.redis_upkeep import RedisUpkeep
from services.snapshots.redis_uploads import RedisUploads
from services.snapshots.redis_values import PREFIX
from services.snapshots.s3_blobs import S3Blobs, connect
from services.snapshots.s3_settings import S3Settings
from services.snapshots.settings import Settings
from services.snapshots.shared_staging import SharedStaging
from services.snapshots.staging import Staging
from services.snapshots.upkeep import OneProcess, Upkeep

# Called past the scripts.
_COMMANDS: Final = frozenset(
    {
        "GET",
        "HGET",
        "HMGET",
        "HVALS",
        "SADD",
        "SET",
        "SMEMBERS",
        "SREM",
        "ZADD",
        "ZRANGE",
        "ZREM",
    }
)


@dataclass(frozen=True, slots=True)
class Stores:
    """Beside the catalog, which is Redis's in any case."""

    blobs: FileBlobs | S3Blobs
    staging: Staging
    upkeep: Upkeep
    scratch: Callable[[], Path]


async def check_user(redis: Store, settings: RedisSettings) -> None:
    """Raises STORE_FORBIDDEN unless we may do all that we have to."""
    await check_rights(
        redis,
        commands_of("services.snapshots.lua") | _COMMANDS,
        f"{PREFIX}store",
        replicas=settings.replicas,
        vouched=settings.vouched,
    )


async def open_stores(
    settings: Settings,
    redis: Store,
    durability: Durability,
    clock: Clock,
    stack: AsyncExitStack,
) -> Stores:
    """Raises STORE_FOREIGN, STORE_FORBIDDEN, STORE_UNAVAILABLE; the stack closes what
    was opened."""
    await check_user(redis, settings.redis)
    if settings.s3 is not None:
        return await _on_s3(settings, settings.s3, redis, durability, clock, stack)
    assert settings.blobs.root is not None, "a URL is one or the other"
    blobs = FileBlobs.open(settings.blobs.root, settings.environment)
    stack.callback(blobs.close)
    staging = FileStaging(blobs.staging, clock)
    return Stores(blobs, staging, OneProcess(), blobs.scratch_path)


async def _on_s3(
    settings: Settings,
    s3: S3Settings,
    redis: Store,
    durability: Durability,
    clock: Clock,
    stack: AsyncExitStack,
) -> Stores:
    disk = LocalDisk.open(s3.cache_folder or Path(tempfile.gettempdir()))
    stack.callback(disk.close)
    cache = BlobCache(disk.folder, s3.cache_bytes)
    blobs = S3Blobs(connect(settings.blobs, s3), cache)
    await blobs.open(settings.blobs, settings.environment)
    return Stores(
        blobs,
        SharedStaging(blobs, RedisUploads(redis, clock), disk.path),
        RedisUpkeep(redis, durability, clock, replicas=settings.redis.replicas),
        disk.path,
    )
