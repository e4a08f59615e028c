"""The promises of a RotLog over the fake and over Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from services.chassis.redis_pool import connect
from services.snapshots.redis_rot import RedisRot
from services.snapshots.rot import Place, RotLog
from tests.fakes.rot_log import MemoryRotLog
from tests.support.redis_rights import SNAPSHOTS, url
from tests.support.redis_server import ValkeyProcess
from tests.support.snapshot_values import segment
from tests.support.tokens import FOREIGN_TOWN, TOWN

ONE, TWO = (segment(name).blake3 for name in ("one", "two"))


class RotLogSuite:
    """Subclasses supply `log`."""

    async def test_marked(self, log: RotLog) -> None:
        """A mark is of one town, and stays until it is taken back; twice is once."""
        await log.mark(TOWN, ONE)
        await log.mark(TOWN, ONE)
        await log.mark(TOWN, TWO)

        assert {ONE, TWO} == set(await log.marks(TOWN))
        assert set() == set(await log.marks(FOREIGN_TOWN))

        await log.unmark(TOWN, [ONE])
        await log.unmark(TOWN, [ONE])
        await log.unmark(TOWN, [])

        assert {TWO} == set(await log.marks(TOWN))

    async def test_placed(self, log: RotLog) -> None:
        """A pass goes on where it was; there is none at first."""
        assert await log.place(TOWN) is None

        await log.put_place(TOWN, Place(1_700_000_000_000_000, 3))
        await log.put_place(TOWN, Place(1_700_000_000_000_000, 4))

        assert Place(1_700_000_000_000_000, 4) == await log.place(TOWN)
        assert await log.place(FOREIGN_TOWN) is None


class TestMemoryRotLog(RotLogSuite):
    @pytest.fixture
    def log(self) -> MemoryRotLog:
        return MemoryRotLog()


@pytest.mark.redis
class TestRedisRot(RotLogSuite):
    @pytest.fixture
    async def log(self, valkey: ValkeyProcess) -> AsyncIterator[RedisRot]:
        store = await connect(url(valkey, SNAPSHOTS))
        yield RedisRot(store)
        await store.aclose()
