"""Copies of blobs on the local disk: counted, bounded, and none left behind."""

from __future__ import annotations

import asyncio
from pathlib import Path

from services.snapshots.blob_cache import BlobCache


async def test_two_that_publish_one_blob_leave_one_copy(tmp_path: Path) -> None:
    """Else each such pair would count against the bound for ever."""
    folder = tmp_path / "cache"
    folder.mkdir()
    cache = BlobCache(folder, 1000)
    source = tmp_path / "source"
    source.write_bytes(b"x" * 400)

    for _ in range(5):
        await asyncio.gather(cache.adopt("key", source), cache.adopt("key", source))

    assert (400, 1) == (cache.size_bytes, len(list(folder.iterdir())))
    await cache.drop("key")
    assert (0, []) == (cache.size_bytes, list(folder.iterdir()))
