"""What every Catalog promises of generations that are changed after their commit."""

from __future__ import annotations

from dataclasses import replace

import pytest

from services.chassis.errors import Reason, ServiceError
from services.snapshots.generations import Claim, Snapshot
from services.snapshots.store import Catalog
from tests.contract.snapshots.catalog_suite import OWNER, commit, reason
from tests.support.snapshot_values import NAME, snapshot


def held(made: Snapshot) -> Snapshot:
    return replace(made, hold=True, revision=made.revision + 1)


def released(made: Snapshot) -> Snapshot:
    return replace(made, hold=False, revision=made.revision + 1)


async def numbers(catalog: Catalog) -> list[int]:
    return [entry.generation for entry in await catalog.entries(NAME)]


class HistorySuite:
    """Subclasses supply `catalog`, empty."""

    @pytest.fixture
    async def three(self, catalog: Catalog) -> list[Snapshot]:
        """Generations of an agent that has an owner."""
        await catalog.advance(NAME, OWNER)
        return [await commit(catalog, snapshot(n)) for n in (1, 2, 3)]

    async def hold(self, catalog: Catalog, made: Snapshot) -> Snapshot:
        assert await catalog.revise(NAME, made, held(made))
        return held(made)

    async def test_what_is_held_is_not_dropped(
        self, catalog: Catalog, three: list[Snapshot]
    ) -> None:
        """Retention passes it over, and is told which ones are gone."""
        await self.hold(catalog, three[0])

        assert [2] == list(await catalog.drop(NAME, [1, 2, 3]))
        assert [2] == list(await catalog.drop(NAME, [1, 2])), "it may be repeated"

        assert [3, 1] == await numbers(catalog)

    async def test_what_is_held_is_not_deleted(
        self, catalog: Catalog, three: list[Snapshot]
    ) -> None:
        """Neither alone nor with all; which one it is, is said."""
        await self.hold(catalog, three[1])

        for wanted in (2, None):
            with pytest.raises(ServiceError) as refused:
                await catalog.delete(NAME, wanted, Claim(1), None)
            assert Reason.SNAPSHOT_HELD is refused.value.reason
            assert {"generation": "2"} == refused.value.metadata
        assert [1] == list(await catalog.delete(NAME, 1, Claim(1), None))
        assert [3, 2] == await numbers(catalog)

    async def test_what_is_released_goes(
        self, catalog: Catalog, three: list[Snapshot]
    ) -> None:
        """A hold leaves nothing behind."""
        first = await self.hold(catalog, three[0])
        second = await self.hold(catalog, three[1])
        for each in (first, second):
            assert await catalog.revise(NAME, each, released(each))

        assert [1] == list(await catalog.drop(NAME, [1]))
        assert [2] == list(await catalog.delete(NAME, 2, Claim(1), None))
        assert [3] == list(await catalog.delete(NAME, None, Claim(1), None))

    async def test_a_held_head(self, catalog: Catalog, three: list[Snapshot]) -> None:
        """It stays held when others come after it, and its record is left to the blob
        store."""
        head = await self.hold(catalog, three[2])
        state, _ = await catalog.look(NAME)
        assert head == state.head
        await catalog.commit(snapshot(4), OWNER, 3, state.revision)
        await catalog.trim(NAME, [head])

        assert [1, 2] == list(await catalog.drop(NAME, [1, 2, 3]))

    async def test_an_older_record_is_not_written_over_a_later_one(
        self, catalog: Catalog, three: list[Snapshot]
    ) -> None:
        """Who read a record in the blob store before it was changed, and moved there
        again, learns of it."""
        stale = replace(three[0], epoch=9, revision=1)
        later = await self.hold(catalog, three[0])
        await catalog.trim(NAME, [later])

        assert not await catalog.revise(NAME, None, stale)
        assert await catalog.revise(NAME, None, released(later))

        assert [1] == list(await catalog.drop(NAME, [1]))

    async def test_adopted_holds_hold(
        self, catalog: Catalog, three: list[Snapshot]
    ) -> None:
        """What the records say is what counts, however old they are."""
        await self.hold(catalog, three[0])
        stored = [snapshot(n) for n in range(1, 200)]
        stored[4] = held(stored[4])

        assert await catalog.adopt(NAME, stored)

        gone = list(await catalog.drop(NAME, [1, 5, 6]))
        assert [1, 6] == gone
        refused = await reason(catalog.delete(NAME, 5, Claim(1), None))
        assert Reason.SNAPSHOT_HELD is refused
