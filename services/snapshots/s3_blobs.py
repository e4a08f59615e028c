"""Blobs as objects of an S3 bucket, which any number of processes may use at once.

An object appears whole or not at all, and of several creators, or of several that
replace what they read, one wins: that is asked of the server, and tried at each start.
Copies of what is read lie on the local disk; memory holds a few parts, however large a
blob is.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from blake3 import blake3
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import S3Store

from services.chassis.errors import Reason, ServiceError
from services.chassis.parsers import BlobUrl
from services.segments.disk import write_all
from services.segments.read import file_parts
from services.snapshots import records
from services.snapshots.blob_cache import BlobCache
from services.snapshots.disk_work import disk_errors, in_thread
from services.snapshots.s3_settings import S3Settings
from services.snapshots.store import BlobMissing
from services.snapshots.store_mark import MARK, foreign, new_mark, store_id, strangers

if TYPE_CHECKING:
    from obstore.store import ClientConfig, S3Config

# Of a multipart upload and of a download: S3 takes 5 MiB at least, 10,000 at most.
PART_BYTES: Final = 8 << 20
_PARTS_MAX: Final = 9_000
# Over all transfers: 64 MiB of memory.
_PARTS_AT_ONCE: Final = 8
# Within one transfer.
_PARTS_TOGETHER: Final = 2
_DETAILS_CHARS: Final = 300
# Of no object: a server that writes under it ignores conditions.
_NO_TAG: Final = '"0"'
# A part within this: 300 KB a second. A server that is silent for so long is away.
_REQUEST_S: Final = 30.0
_CONNECT_S: Final = 5.0
_RETRIES: Final = 3
_RETRY_S: Final = 15.0


def connect(
    url: BlobUrl, settings: S3Settings, *, request_s: float = _REQUEST_S
) -> S3Store:
    """A client; nothing is asked of the server yet. What the settings leave open, such
    as the role of a container, it finds by itself in the environment."""
    config: S3Config = {
        "region": settings.region,
        # A bulk delete is refused by some servers, and is never large here.
        "disable_bulk_delete": True,
    }
    if settings.endpoint:
        config["endpoint"] = settings.endpoint
    if settings.access_key_id and settings.secret_access_key:
        config["access_key_id"] = settings.access_key_id
        config["secret_access_key"] = settings.secret_access_key
    if settings.session_token:
        config["session_token"] = settings.session_token
    options: ClientConfig = {
        "allow_http": (settings.endpoint or "").startswith("http://"),
        "connect_timeout": timedelta(seconds=_CONNECT_S),
        "timeout": timedelta(seconds=request_s),
    }
    if settings.ca:
        options["root_certificate"] = settings.ca.read_bytes()
    return S3Store(
        url.bucket,
        prefix=url.prefix or None,
        config=config,
        client_options=options,
        retry_config={
            "max_retries": _RETRIES,
            "retry_timeout": timedelta(seconds=_RETRY_S),
        },
    )


class S3Blobs:
    """A BlobStore over one prefix of one bucket."""

    def __init__(self, store: S3Store, cache: BlobCache) -> None:
        self._store = store
        self._cache = cache
        self._turns = asyncio.Semaphore(_PARTS_AT_ONCE)
        self.store_id = ""

    async def open(self, where: object, environment: str) -> Self:
        """Takes the prefix for this environment. Raises STORE_FOREIGN if it is not
        ours to take, or if the server would let two writers take one name."""
        try:
            mark = await self.read(MARK)
        except BlobMissing:
            # Another replica may make the mark at this very moment.
            if others := [name for name in await self.list("") if name != MARK]:
                raise strangers(where, others[0], "prefix") from None
            await self.create(MARK, new_mark(environment))
            mark = await self.read(MARK)
        self.store_id = store_id(where, mark, environment)
        with _s3_errors(MARK):
            kept = not await self._replace(MARK, _NO_TAG, mark)
        if not kept or await self.create(MARK, mark):
            raise foreign(
                where,
                "its server does not know If-Match or If-None-Match, so two writers "
                "could take one name; use one that does",
            )
        return self

    async def create(self, key: str, data: bytes) -> bool:
        with _s3_errors(key):
            try:
                await self._store.put_async(key, data, mode="create")
            except AlreadyExistsError:
                return False
        return True

    async def swap(self, key: str, old: bytes, new: bytes) -> bool:
        with suppress(BlobMissing), _s3_errors(key):
            found = await self._store.get_async(key)
            tag = found.meta["e_tag"]
            if bytes(await found.bytes_async()) == old:
                return await self._replace(key, tag, new)
        return False

    async def publish(self, key: str, path: Path) -> None:
        with disk_errors("the segment"):
            size_bytes = path.stat().st_size
        part_bytes = max(PART_BYTES, size_bytes // _PARTS_MAX + 1)
        async with self._turns:
            with _s3_errors(key):
                await self._store.put_async(
                    key, path, chunk_size=part_bytes, max_concurrency=_PARTS_TOGETHER
                )
        await self._cache.adopt(key, path)

    async def read(self, key: str) -> bytes:
        with _s3_errors(key):
            found = await self._store.get_async(key)
            return bytes(await found.bytes_async())

    @asynccontextmanager
    async def local(self, key: str) -> AsyncIterator[Path]:
        async def fetch(path: Path) -> bool:
            await self._fetch(key, path)
            return await in_thread(_is_as_named, key, path)

        async with self._cache.holding(key, fetch) as path:
            yield path

    async def stored(self, key: str) -> AsyncIterator[bytes]:
        with _s3_errors(key):
            size_bytes = (await self._store.head_async(key))["size"]
        for start in range(0, size_bytes, PART_BYTES):
            length = min(PART_BYTES, size_bytes - start)
            async with self._turns:
                with _s3_errors(key):
                    data = await self._store.get_range_async(
                        key, start=start, length=length
                    )
            yield bytes(data)

    async def delete(self, key: str) -> None:
        with _s3_errors(key):
            await self._store.delete_async(key)
        await self._cache.drop(key)

    async def list(self, folder: str) -> list[str]:
        with _s3_errors(folder):
            found = await self._store.list_with_delimiter_async(folder or None)
        paths = (
            *found["common_prefixes"],
            *(each["path"] for each in found["objects"]),
        )
        return sorted({path.rstrip("/").rpartition("/")[2] for path in paths})

    async def _replace(self, key: str, tag: str | None, data: bytes) -> bool:
        """Unless it has another tag by now."""
        try:
            await self._store.put_async(key, data, mode={"e_tag": tag})
        except PreconditionError:
            return False
        return True

    async def check(self) -> None:
        try:
            with _s3_errors(MARK):
                await self._store.head_async(MARK)
        except BlobMissing:
            raise _unavailable(f"its {MARK} is gone; restore it") from None

    async def _fetch(self, key: str, path: Path) -> None:
        async with self._turns:
            with _s3_errors(key):
                found = await self._store.get_async(key)
                size_bytes = found.meta["size"]
                # Of a large one only the size was wanted.
                small = size_bytes <= PART_BYTES
                data = await found.bytes_async() if small else b""
                del found
        with disk_errors("the cache"):
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            descriptor = os.open(path, flags, 0o600)
            try:
                if small:
                    await in_thread(write_all, descriptor, memoryview(data), 0)
                else:
                    await self._fetch_parts(key, descriptor, size_bytes)
            finally:
                os.close(descriptor)

    async def _fetch_parts(self, key: str, descriptor: int, size_bytes: int) -> None:
        async def fetch(start: int) -> None:
            length = min(PART_BYTES, size_bytes - start)
            async with self._turns:
                with _s3_errors(key):
                    data = await self._store.get_range_async(
                        key, start=start, length=length
                    )
                await in_thread(write_all, descriptor, memoryview(data), start)

        starts = iter(range(0, size_bytes, PART_BYTES))

        async def some() -> None:
            for start in starts:
                await fetch(start)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(_PARTS_TOGETHER):
                    group.create_task(some())
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from failed


def _is_as_named(key: str, path: Path) -> bool:
    """Whether a segment has the digest that names it: else it may have rotted, and be
    healed in the store while we would still have the old bytes."""
    wanted = records.digest_of(key.rpartition("/")[2])
    if wanted is None:
        return False
    digest = blake3()
    with disk_errors("the cache"), path.open("rb", buffering=0) as file:
        for part in file_parts(file):
            digest.update(part)
    return digest.digest() == wanted


@contextmanager
def _s3_errors(key: str) -> Iterator[None]:
    """Absent is BlobMissing; whatever else goes wrong, the store is not available."""
    try:
        yield
    except FileNotFoundError as error:
        if "NoSuchBucket" in str(error):
            raise _unavailable("its bucket does not exist; make it") from error
        raise BlobMissing(key) from error
    except (PermissionDeniedError, UnauthenticatedError) as error:
        raise _unavailable(f"it refuses our credentials ({_first_line(error)})") from (
            error
        )
    except BaseError as error:
        if isinstance(error, AlreadyExistsError):
            raise
        raise _unavailable(f"{_first_line(error)}; see to it, then try again") from (
            error
        )


def _unavailable(why: str) -> ServiceError:
    return ServiceError(
        Reason.STORE_UNAVAILABLE, f"cannot use the blob store in S3: {why}"
    )


def _first_line(error: BaseError) -> str:
    """Where and why; what follows is for those who debug the client itself."""
    return str(error).partition("\n")[0][:_DETAILS_CHARS]
