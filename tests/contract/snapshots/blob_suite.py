"""What every BlobStore promises."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from services.snapshots.store import BlobMissing, BlobStore

KEY = "towns/t/segments/ab/abcd"


class BlobStoreSuite:
    """Subclasses supply `store`."""

    @pytest.fixture
    def source(self, tmp_path: Path) -> Path:
        """A local file to publish, on the store's own file system."""
        path = tmp_path / "source"
        path.write_bytes(b"content")
        return path

    async def test_created_once(self, store: BlobStore) -> None:
        """The first creation wins; the second changes nothing and says so."""
        assert await store.create(KEY, b"first")
        assert not await store.create(KEY, b"second")

        assert b"first" == await store.read(KEY)

    async def test_one_of_many_creators_wins(self, store: BlobStore) -> None:
        """Of creators at the same time exactly one makes the blob."""
        won = await asyncio.gather(*(store.create(KEY, b"%d" % n) for n in range(16)))

        assert 1 == won.count(True)
        assert b"%d" % won.index(True) == await store.read(KEY)

    async def test_created_empty(self, store: BlobStore) -> None:
        """A blob may be empty, and is there."""
        assert await store.create(KEY, b"")
        assert not await store.create(KEY, b"x")

        assert b"" == await store.read(KEY)

    async def test_swapped(self, store: BlobStore) -> None:
        """A small blob is replaced while it is what the caller read, else left."""
        await store.create(KEY, b"first")

        assert await store.swap(KEY, b"first", b"second")
        assert not await store.swap(KEY, b"first", b"third")
        assert not await store.swap(f"{KEY}-2", b"first", b"third")

        assert b"second" == await store.read(KEY)
        with pytest.raises(BlobMissing):
            await store.read(f"{KEY}-2")

    async def test_one_of_many_swaps_wins(self, store: BlobStore) -> None:
        """Of those that read the same bytes, one replaces them."""
        await store.create(KEY, b"first")

        won = await asyncio.gather(
            *(store.swap(KEY, b"first", b"%d" % n) for n in range(16))
        )

        assert 1 == won.count(True)
        assert b"%d" % won.index(True) == await store.read(KEY)

    async def test_published(self, store: BlobStore, source: Path) -> None:
        """A file becomes a blob and stays a file."""
        await store.publish(KEY, source)

        async with store.local(KEY) as path:
            assert b"content" == path.read_bytes()
        assert source.exists()

    async def test_published_again(self, store: BlobStore, source: Path) -> None:
        """Publishing twice is publishing once, also after the source went."""
        await store.publish(KEY, source)
        await store.publish(KEY, source)
        source.unlink()

        assert b"content" == await store.read(KEY)

    async def test_publishing_replaces(
        self, store: BlobStore, source: Path, tmp_path: Path
    ) -> None:
        """What had rotted under the name of a digest is healed."""
        rotten = tmp_path / "rotten"
        rotten.write_bytes(b"rotten")
        await store.publish(KEY, rotten)

        await store.publish(KEY, source)

        assert b"content" == await store.read(KEY)
        assert b"rotten" == rotten.read_bytes()

    async def test_read_anew(self, store: BlobStore, source: Path) -> None:
        """What the store has is told in pieces, whatever was read of it before."""
        source.write_bytes(bytes(3 << 20) + b"end")
        await store.publish(KEY, source)
        async with store.local(KEY):
            found = b"".join([part async for part in store.stored(KEY)])
        assert source.read_bytes() == found

        with pytest.raises(BlobMissing):
            _ = [part async for part in store.stored(f"{KEY}-2")]

    async def test_a_reader_keeps_what_it_opened(
        self, store: BlobStore, source: Path
    ) -> None:
        """A file that is open is read to its end, whatever happens to its name."""
        await store.publish(KEY, source)

        async with store.local(KEY) as path:
            with path.open("rb") as file:
                await store.delete(KEY)
                assert b"content" == file.read()

    async def test_absent(self, store: BlobStore) -> None:
        """What is not there cannot be read, and can be deleted."""
        with pytest.raises(BlobMissing):
            await store.read(KEY)
        with pytest.raises(BlobMissing):
            async with store.local(KEY):
                raise AssertionError("unreachable")

        await store.delete(KEY)

    async def test_deleted(self, store: BlobStore) -> None:
        """What was deleted is gone, and its name free."""
        await store.create(KEY, b"first")

        await store.delete(KEY)

        assert await store.create(KEY, b"second")

    async def test_listed(self, store: BlobStore) -> None:
        """A listing has the names right below a folder, sorted, each once."""
        for key in ("a/2", "a/1", "a/b/3", "a/b/4", "ab/5"):
            await store.create(key, b"")

        assert ["1", "2", "b"] == await store.list("a")
        assert ["3", "4"] == await store.list("a/b")
        assert [] == await store.list("nowhere")
        assert [] == await store.list("a/1")

    async def test_checked(self, store: BlobStore) -> None:
        """A store that can be written to passes its check and shows nothing of it."""
        await store.check()

        assert [] == await store.list("towns")
